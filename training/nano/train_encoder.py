# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the mel encoder to hear phones, as the paper begins with an encoder that knows speech.

    python -m training.nano.train_encoder              # resumes from its last checkpoint

Phones (CTC) are read twice, by branches that are not shipped: from every 25 Hz vector, and from
the mean of five of them, which is all that the language model gets, unfolded to five places. The
second keeps the order inside a group, which a mean loses unless the encoder writes it down. Bands
of the spectrogram are blanked (Park et al., "SpecAugment", arXiv 1904.08779, section 2). Writes
``encoder.pt`` and ``encoder_curve.json`` below ``--work``.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import jiwer
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funaudiochat.configuration_funaudiochat import FunAudioChatAudioEncoderConfig
from funaudiochat.modeling_funaudiochat import FunAudioChatAudioEncoder
from training.nano.checkpoint import restore, save
from training.nano.data import WORK
from training.nano.sizes import AUDIO, GROUP_SIZE
from training.nano.tokenizer import Block
from training.nano.train_tokenizer import Utterance, batches, collate, collect

log = logging.getLogger(__name__)

READER_WIDTH = 128
PEAK_RATE, WARM_UP_STEPS = 1e-3, 300
BLANKED_BANDS, WIDEST_BAND = 2, 20
SAVE_EVERY, EVALUATE_EVERY = 250, 1000
EVALUATED = 100  # utterances of each held-out set


class EncoderTrainer(nn.Module):
    """The mel encoder with its two reading branches.

    Args:
        phones: number of phone symbols; CTC's blank is added.
    """

    def __init__(self, phones: int) -> None:
        super().__init__()
        self.encoder = FunAudioChatAudioEncoder(FunAudioChatAudioEncoderConfig(**AUDIO))
        width = AUDIO["output_dim"]
        self.frame_out = nn.Linear(width, phones + 1)
        self.group_in = nn.Linear(width, GROUP_SIZE * READER_WIDTH)
        self.group_block = Block(READER_WIDTH)
        self.group_out = nn.Linear(READER_WIDTH, phones + 1)

    def read(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of phones, by frame and by group.

        Args:
            mel: [B, mels, M]; lengths: [B] mel frames before the padding.

        Returns:
            two [B, T, phones + 1], T a multiple of five, and the lengths [B] in 25 Hz frames.
        """
        items = [item[:, :length] for item, length in zip(mel, lengths.tolist(), strict=True)]
        _, counts = self.encoder._get_feat_extract_output_lengths(lengths)
        total = -(-int(counts.max()) // GROUP_SIZE) * GROUP_SIZE
        encoded = self.encoder(torch.cat(items, dim=1), lengths, speech_maxlen=total)
        vectors = encoded.last_hidden_state
        inside = (torch.arange(total) < counts[:, None])[..., None].to(mel.dtype)
        grouped = self.group_in(vectors.unflatten(1, (-1, GROUP_SIZE)).mean(2))
        unfolded = grouped.unflatten(-1, (GROUP_SIZE, -1)).flatten(1, 2)
        by_group = self.group_out(self.group_block(unfolded, inside))
        return self.frame_out(vectors).log_softmax(-1), by_group.log_softmax(-1), counts

    def losses(
        self, mel: Tensor, lengths: Tensor, phones: Tensor, phone_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """CTC by frame and by group; arguments of :func:`training.nano.train_tokenizer.collate`."""
        by_frame, by_group, counts = self.read(mel, lengths)
        frame, group = (
            F.ctc_loss(s.transpose(0, 1), phones, counts, phone_lengths, zero_infinity=True)
            for s in (by_frame, by_group)
        )
        return frame, group


def blank_bands(mel: Tensor) -> Tensor:
    """Spectrogram [B, mels, M] with some bands of each item at its mean, and a little noise."""
    mel = mel + 0.02 * torch.randn_like(mel)
    bands = torch.arange(mel.shape[1])
    for _ in range(BLANKED_BANDS):
        width = torch.randint(0, WIDEST_BAND + 1, (len(mel), 1))
        start = (torch.rand(len(mel), 1) * (mel.shape[1] - width)).long()
        blank = (bands >= start) & (bands < start + width)
        mel = torch.where(blank[..., None], mel.mean((1, 2), keepdim=True), mel)
    return mel


@torch.no_grad()
def evaluate(
    model: EncoderTrainer, utterances: list[Utterance], phone_ids: dict[str, int]
) -> dict[str, dict[str, float]]:
    """Phone error rate of the held-out sets, read by frame and by group."""
    model.eval()
    symbol = {i: p for p, i in phone_ids.items()}
    groups: dict[str, list[Utterance]] = {}
    for u in utterances:
        if u.group not in ("train", "answers"):
            name = f"{u.group}/{u.voice}" if u.group == "test_voice" else u.group
            groups.setdefault(name, []).append(u)
    result = {}
    for name, group in sorted(groups.items()):
        chosen = group[:: max(1, len(group) // EVALUATED)][:EVALUATED]
        heard: tuple[list[str], list[str]] = ([], [])
        for u in chosen:
            mel, lengths, *_ = collate([u], phone_ids, [""])
            by_frame, by_group, counts = model.read(mel, lengths)
            for texts, scores in zip(heard, (by_frame, by_group), strict=True):
                best = scores[0, : int(counts)].argmax(-1).unique_consecutive().tolist()
                texts.append("".join(symbol[i] for i in best if i))
        said = [u.phones for u in chosen]
        frame, by_five = (round(100 * jiwer.cer(said, texts), 2) for texts in heard)
        result[name] = {"phone_error_percent": frame, "by_group_percent": by_five}
    model.train()
    return result


def train(work: Path, steps: int) -> None:
    """Train to the end of the schedule, from the last checkpoint if there is one."""
    utterances = collect(work)
    train_set = [u for u in utterances if u.group == "train"]
    voices = sorted({u.voice for u in train_set})
    phone_ids = {p: i for i, p in enumerate(sorted({p for u in train_set for p in u.phones}), 1)}
    torch.manual_seed(0)
    model = EncoderTrainer(len(phone_ids))
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05
    )
    path = work / "encoder.pt"
    state: dict[str, Any] = {
        "step": 0, "steps": steps, "epoch": 0, "batch": 0, "cpu_s": 0.0, "curve": []
    }  # fmt: skip
    state |= restore(path, model, optimizer)
    recent: list[tuple[float, float]] = []
    while state["step"] < state["steps"]:
        for batch in list(batches(train_set, state["epoch"]))[state["batch"] :]:
            started, step = time.process_time(), state["step"]
            rate = PEAK_RATE * min(1, (step + 1) / WARM_UP_STEPS)
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate * max(0.02, 1 - step / state["steps"])
            mel, lengths, phones, phone_lengths, _ = collate(batch, phone_ids, voices)
            frame, group = model.losses(blank_bands(mel), lengths, phones, phone_lengths)
            optimizer.zero_grad()
            (0.5 * frame + group).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            recent.append((frame.item(), group.item()))
            state["step"] = step = step + 1
            state["batch"] += 1
            state["cpu_s"] += time.process_time() - started
            last = step == state["steps"]
            if step % SAVE_EVERY == 0 or last:
                by_frame, by_group = (sum(x) / len(recent) for x in zip(*recent, strict=True))
                point = {"step": step, "cpu_s": round(state["cpu_s"])}
                point |= {"ctc": round(by_frame, 4), "ctc_by_group": round(by_group, 4)}
                if step % EVALUATE_EVERY == 0 or last:
                    point["held_out"] = evaluate(model, utterances, phone_ids)
                log.info("%s", point)
                state["curve"].append(point)
                recent = []
                save(path, model, optimizer, state)
                (work / "encoder_curve.json").write_text(json.dumps(state["curve"], indent=1))
            if last:
                break
        else:
            state["epoch"], state["batch"] = state["epoch"] + 1, 0


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the mel encoder to hear phones.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    train(args.work, args.steps)


if __name__ == "__main__":
    main()

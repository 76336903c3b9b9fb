# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Answers of fixed questions at every evaluation of a training run."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from funaudiochat.audio import load_audio, save_wav
from funaudiochat.constants import OUTPUT_RATE_HZ
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.voices import choose_voice, installed_voices
from funaudiochat.errors import FunAudioChatError
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from training.make_pairs import (
    KINDS,
    Answer,
    Judge,
    Question,
    read_questions,
    score_answer,
    whisper_judge,
)

logger = logging.getLogger(__name__)

FIELDS = ("eval_questions", "eval_tts_path", "eval_judge")
JUDGES = ("none", "whisper")
MAX_NEW_TOKENS = 150


@dataclass(frozen=True)
class EvalQuestions:
    """The questions of a config and what their answers are heard with."""

    questions: list[Question]
    tts_path: Path | None
    judge: Judge | None

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> "EvalQuestions | None":
        """Return what a config asks for, None if it asks for nothing.

        Raises:
            FunAudioChatError: a field cannot work.
        """
        path, tts_path, judge = map(config.get, FIELDS)
        if not path:
            if tts_path or judge:
                raise FunAudioChatError("eval_tts_path, eval_judge: name eval_questions, too")
            return None
        if str(config.get("eval_strategy", "no")) == "no":
            raise FunAudioChatError(
                "eval_questions: they are asked at evaluations; write eval_strategy=steps, "
                "eval_steps and eval_dataset or val_size"
            )
        if config.get("deepspeed") or config.get("fsdp"):
            raise FunAudioChatError(
                "eval_questions: with deepspeed or fsdp no process has all weights; leave it out, "
                "and ask the saved checkpoints with `funaudiochat s2s`"
            )
        if (judge or "none") not in JUDGES:
            raise FunAudioChatError(f"eval_judge: {judge} is not one of {', '.join(JUDGES)}")
        if judge == "whisper" and not tts_path:
            raise FunAudioChatError("eval_judge: a judge hears audio; give eval_tts_path, too")
        if tts_path and not Path(tts_path).is_dir():
            raise FunAudioChatError(f"eval_tts_path: folder {tts_path} not found")
        return cls(
            read_questions(Path(path), list(KINDS)),
            Path(tts_path) if tts_path else None,
            whisper_judge() if judge == "whisper" else None,
        )


class AnswerLog(TrainerCallback):
    """Asks fixed questions at every evaluation, writes the answers and measures them.

    ``answers/step-N`` of the output folder gets ``answers.jsonl`` and a WAV file of each spoken
    answer, numbered as the questions. The means of the parts of their scores
    (``training.make_pairs``) become metrics of the evaluation, as ``eval_answers_text`` and
    ``eval_answers_heard``, which ``metric_for_best_model`` and early stopping can use. Only the
    first process answers.

    Args:
        asked: questions, detokenizer and judge.
        processor: of the model that is trained.
        tensorboard: whether metrics, texts and audio also go to TensorBoard.
    """

    def __init__(
        self, asked: EvalQuestions, processor: FunAudioChatProcessor, tensorboard: bool
    ) -> None:
        self.asked, self.processor, self.tensorboard = asked, processor, tensorboard
        self._step = -1
        self._detokenizer: CosyVoice3Detokenizer | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:  # once for all data sets
            return
        self._step = state.global_step
        found: list[Any] = [None]
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / "answers" / f"step-{state.global_step:06d}"
            found = [self._ask(kwargs["model"], folder, state.global_step)]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast_object_list(found)
        kwargs["metrics"].update(found[0])
        state.log_history.append({"step": state.global_step, **found[0]})

    def _ask(self, model: Any, folder: Path, step: int) -> dict[str, float]:
        whole = getattr(model, "module", model)  # of distributed training
        unwrap = getattr(whole, "get_base_model", None)  # of PEFT
        chat = self._chat(unwrap() if unwrap else whole)
        folder.mkdir(parents=True, exist_ok=True)
        training = model.training
        model.eval()
        try:
            answers = [
                self._answer(chat, question, folder / f"{number:03d}.wav")
                for number, question in enumerate(self.asked.questions)
            ]
        finally:
            model.train(training)
        records = [
            {"id": question.id, "text": answer.text, "heard": answer.heard, "scores": answer.scores}
            for question, answer in zip(self.asked.questions, answers, strict=True)
        ]
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
        parts = {name for answer in answers for name in answer.scores}
        metrics = {}
        for part in sorted(parts):
            scores = [answer.scores[part] for answer in answers if part in answer.scores]
            metrics[f"eval_answers_{part}"] = sum(scores) / len(scores)
        logger.info("answers at step %d: %s; %s", step, metrics, folder)
        if self.tensorboard:
            self._show(folder, step, records, metrics)
        return metrics

    def _chat(self, model: Any) -> VoiceChat:
        tts_path = self.asked.tts_path
        if tts_path is None:
            return VoiceChat(model, self.processor)
        if self._detokenizer is None:
            self._detokenizer = CosyVoice3Detokenizer.from_pretrained(tts_path)
        speaker = choose_voice(installed_voices(tts_path), None)
        return VoiceChat(model, self.processor, self._detokenizer, speaker)

    def _answer(self, chat: VoiceChat, question: Question, wav: Path) -> Answer:
        chat.reset()
        chat.system = question.system or None
        reply = chat.ask(
            text=question.text or None,
            audio=Path(question.audio) if question.audio else None,
            speech=question.speech,
            sampling=Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=0),
        )
        answer = Answer(reply.text, reply.speech_tokens.tolist())
        if reply.audio is not None and len(reply.audio):
            save_wav(wav, reply.audio, reply.sample_rate_hz)
            if self.asked.judge is not None:
                answer.heard = self.asked.judge(reply.audio, reply.sample_rate_hz)
        answer.scores = score_answer(question, answer)
        return answer

    def _show(
        self, folder: Path, step: int, records: list[dict[str, Any]], metrics: dict[str, float]
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder.parent)) as writer:
            for name, value in metrics.items():
                writer.add_scalar(name.replace("eval_answers_", "answers/"), value, step)
            for number, record in enumerate(records):
                writer.add_text(f"answers/{record['id']}", record["text"], step)
                wav = folder / f"{number:03d}.wav"
                if wav.exists():
                    waveform = torch.from_numpy(load_audio(wav, OUTPUT_RATE_HZ))[None]
                    writer.add_audio(f"answers/{record['id']}", waveform, step, OUTPUT_RATE_HZ)

// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { createContext, useContext } from "react";
import { en, type Text } from "./en";
import { zh } from "./zh";

export const TEXTS = { en, zh };

export const TextContext = createContext<Text>(en);

/** The words of the chosen language. */
export const useText = () => useContext(TextContext);

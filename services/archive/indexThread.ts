/** Parses one file of YAML on a thread of its own and ends: 1 MiB takes seconds, and what is made to be slow takes longer. */
import { parentPort, workerData } from 'node:worker_threads';
import { asLxstowError } from '../errors.ts';
import { type Parsed, parseConfigFile, parseIndex, type YamlTask } from './lxdIndex.ts';

export type IndexAnswer = Parsed | { refused: string };

function answer({ text, strict, part }: YamlTask): IndexAnswer {
  try {
    const bytes = Buffer.from(text);
    return part === 'config' ? { described: parseConfigFile(bytes) } : { index: parseIndex(bytes, strict) };
  } catch (error) {
    return { refused: asLxstowError(error).message };
  }
}

parentPort?.postMessage(answer(workerData as YamlTask));

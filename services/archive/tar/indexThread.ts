/** Parses one YAML file on a thread of its own, then ends: 1 MiB takes seconds, and a malicious file takes longer. */
import { parentPort, workerData } from 'node:worker_threads';
import { asLxstowError } from '../../contract/errors.ts';
import { type Parsed, parseConfigFile, parseIndex, type YamlTask } from './indexYaml.ts';

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

/** Parses one index on a thread of its own, then ends: 1 MiB of YAML takes seconds, and a malicious index takes longer. */
import { parentPort, workerData } from 'node:worker_threads';
import { asLxstowError } from '../errors.ts';
import { type LxdIndex, parseIndex } from './lxdIndex.ts';

export type IndexAnswer = { index: LxdIndex } | { refused: string };

function answer(): IndexAnswer {
  try {
    return { index: parseIndex(Buffer.from(workerData as Uint8Array)) };
  } catch (error) {
    return { refused: asLxstowError(error).message };
  }
}

parentPort?.postMessage(answer());

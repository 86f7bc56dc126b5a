/** Entry point of a worker thread of threads.ts. */
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { crcInS3 } from '../crcInS3.ts';
import { pack, unpack } from './blockFormat.ts';
import { zlibDeflate } from './deflate.ts';
import { openIsal } from './isal.ts';
import type { Answer, Digests, Request, Stretch, Task, ThreadData } from './threads.ts';

/** Both checksums process one such stretch before the next, so that the second one finds it in the CPU cache. */
const stretchBytes = 256 * 1024;

const deflate = openDeflate(workerData);

parentPort?.on('message', (request: Request) => {
  let answer: Answer;
  try {
    answer = { id: request.id, result: run(request) };
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    answer = { id: request.id, error: message, code };
  }
  parentPort?.postMessage(answer);
});

function openDeflate({ gzipLibrary }: ThreadData) {
  try {
    if (gzipLibrary) return openIsal(gzipLibrary);
  } catch {
    // Fall back to zlib, which is slower; `lxstow doctor` says why.
  }
  return zlibDeflate;
}

function run(task: Task): Digests | string | number {
  switch (task.do) {
    case 'digest':
      return digest(task.on);
    case 'sha256':
      return createHash('sha256').update(bytesOf(task.on)).digest('hex');
    case 'pack':
      return pack(task.compression, bytesOf(task.on), task.length, deflate);
    case 'unpack':
      return unpack(task.compression, bytesOf(task.on), bytesOf(task.into));
  }
}

function digest({ memory, offset, length }: Stretch): Digests {
  const hash = createHash('sha256');
  let crc = 0;
  for (let at = 0; at < length; at += stretchBytes) {
    const stretch = new Uint8Array(memory, offset + at, Math.min(stretchBytes, length - at));
    hash.update(stretch);
    crc = deflate.crc32(stretch, crc);
  }
  return { sha256: hash.digest('hex'), crc32: crcInS3(crc) };
}

function bytesOf({ memory, offset, length }: Stretch): Buffer {
  return Buffer.from(memory, offset, length);
}

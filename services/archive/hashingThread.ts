/** The other end of hashing.ts. */
import { createHash } from 'node:crypto';
import { parentPort } from 'node:worker_threads';
import { crc32 } from 'node:zlib';
import type { HashAnswer, HashRequest } from './hashing.ts';

parentPort?.on('message', ({ id, memory, offset, length }: HashRequest) => {
  const body = new Uint8Array(memory, offset, length);
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc32(body));
  const answer: HashAnswer = {
    id,
    sha256: createHash('sha256').update(body).digest('hex'),
    crc32: sum.toString('base64'),
  };
  parentPort?.postMessage(answer);
});

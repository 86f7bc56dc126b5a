/** The other end of hashing.ts. */
import { createHash } from 'node:crypto';
import { parentPort } from 'node:worker_threads';
import { crc32 } from 'node:zlib';
import { crcInS3, type HashAnswer, type HashRequest } from './hashing.ts';

/** Both sums take a stretch in turn: the second one finds it in the cache. */
const stretchBytes = 256 * 1024;

parentPort?.on('message', ({ id, both, memory, offset, length }: HashRequest) => {
  const hash = createHash('sha256');
  let crc = 0;
  for (let at = 0; at < length; at += stretchBytes) {
    const stretch = new Uint8Array(memory, offset + at, Math.min(stretchBytes, length - at));
    hash.update(stretch);
    if (both) crc = crc32(stretch, crc);
  }
  const answer: HashAnswer = { id, sha256: hash.digest('hex'), ...(both ? { crc32: crcInS3(crc) } : {}) };
  parentPort?.postMessage(answer);
});

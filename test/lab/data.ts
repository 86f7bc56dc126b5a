import { createCipheriv, createHash } from 'node:crypto';
import { lchown, mkdir, open, utimes } from 'node:fs/promises';
import { join } from 'node:path';

/** Random bytes do not compress, log lines do, about 1 : 5; mixed is a file of one, a file of the other. */
export type DataKind = 'random' | 'log' | 'mixed';

interface DataOptions {
  sizeMiB: number;
  kind: DataKind;
  /** The same seed gives the same files, to the byte and the second. */
  seed: string;
  uid: number;
  gid: number;
}

const mib = 1024 * 1024;
const fileSizeMiB = 32;
const smallFiles = 100;
const epochS = 1_700_000_000;

/** Fills `folder` with files of 32 MiB, `sizeMiB` in all, and 100 small ones besides. */
export async function writeData(folder: string, { sizeMiB, kind, seed, uid, gid }: DataOptions): Promise<void> {
  const small = join(folder, 'small');
  await mkdir(small, { recursive: true });
  const write = async (path: string, index: number, chunks: Iterable<Uint8Array>) => {
    const file = await open(path, 'w', 0o640);
    try {
      for (const chunk of chunks) await file.write(chunk);
      await file.chown(uid, gid);
      await file.utimes(epochS + index, epochS + index);
    } finally {
      await file.close();
    }
  };
  for (let index = 0; index < smallFiles; index++) {
    await write(join(small, `${index}.txt`), index, [Buffer.from(`${seed} ${index}\n`.repeat(index))]);
  }
  for (let from = 0, index = 0; from < sizeMiB; from += fileSizeMiB, index++) {
    const isLog = kind === 'log' || (kind === 'mixed' && index % 2 === 1);
    const fill = isLog ? logLines(`${seed}/${index}`) : randomBytes(`${seed}/${index}`);
    await write(
      join(folder, `${index}.${isLog ? 'log' : 'bin'}`),
      index,
      fill.take(Math.min(fileSizeMiB, sizeMiB - from)),
    );
  }
  for (const directory of [small, folder]) {
    await lchown(directory, uid, gid);
    await utimes(directory, epochS, epochS);
  }
}

/** Endless chunks of 1 MiB: the keystream of AES, which is as fast as the disk. */
export function* randomBytes(seed: string): Generator<Buffer, undefined> {
  const key = createHash('sha256').update(seed).digest();
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16));
  const zeros = Buffer.alloc(mib);
  for (;;) yield cipher.update(zeros);
}

/** Endless chunks of 1 MiB of text like a web server's log: no two lines are the same, what they are made of is. */
function* logLines(seed: string): Generator<Uint8Array, undefined> {
  const requests = Array.from(
    { length: 4_096 },
    (_, n) => `Z web-${n % 7} "GET /items/${n} HTTP/1.1" 200 ${n * 7} id=`,
  );
  let second = epochS;
  for (const numbers of randomBytes(seed)) {
    const ids = numbers.toString('hex', 0, mib / 4);
    const chunk = Buffer.alloc(mib);
    for (let length = 0, line = 0; length < mib; second++) {
      const time = new Date(second * 1_000).toISOString().slice(0, 20);
      for (let ms = 100; ms < 1_000; ms += 7, line++) {
        const request = requests[numbers.readUInt16LE(line * 4) % 4_096];
        length += chunk.write(`${time}${ms}${request}${ids.slice(line * 8, line * 8 + 8)}\n`, length, 'latin1');
      }
    }
    yield chunk;
  }
}

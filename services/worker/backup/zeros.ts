/** Zeros that a backup without compression stores as they are: most of a virtual machine's disk, when the machine is new. */
import { isZero } from '../../archive/compression/blockFormat.ts';
import { blockSizeBytes } from '../../archive/compression/compression.ts';
import { sizeText } from '../../contract/bytes.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { BackupStart, SentPart } from './checkpoint.ts';

/** Less is not worth a word. */
const smallestBytes = 32 * 1024 * 1024;
/** Storage drivers that LXD makes optimized backups of: these leave out what was never written. */
const optimizable = new Set(['btrfs', 'zfs']);

/** Bytes in whole blocks of zeros. 16 µs for a block that is one; what is none shows at once. */
export function zerosIn(bytes: Buffer): number {
  let zeros = 0;
  for (let at = 0; at < bytes.length; at += blockSizeBytes) {
    const block = bytes.subarray(at, at + blockSizeBytes);
    if (isZero(block)) zeros += block.length;
  }
  return zeros;
}

/** Warns where more than half of what was stored without compression is zeros. */
export function adviseOnZeros(parts: SentPart[], { compression, instance }: BackupStart, attempt: Attempt): void {
  if (compression !== 'none') return;
  const sum = (of: (part: SentPart) => number) => parts.reduce((total, part) => total + of(part), 0);
  const [zeros, stored] = [sum((part) => part.zeros ?? 0), sum((part) => part.size)];
  if (zeros < smallestBytes || zeros <= stored / 2) return;
  const ways = optimizable.has(instance.driver) ? '--compression zstd or --optimized' : '--compression zstd';
  attempt.warn(`${sizeText(zeros)} of ${sizeText(stored)} stored are zeros: with ${ways} they take next to no room`);
}

/** Warns about zeros, which a backup without compression stores in full: most of the disk of a new virtual machine. */
import { isZero } from '../../archive/compression/blockFormat.ts';
import { blockSizeBytes } from '../../archive/compression/compression.ts';
import { sizeText } from '../../contract/amounts.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { BackupStart, SentPart } from './checkpoint.ts';

/** Fewer zeros than this are not worth a warning. */
const smallestBytes = 32 * 1024 * 1024;
/** Storage drivers whose optimized backups leave out what was never written. */
const optimizable = new Set(['btrfs', 'zfs']);

/** Counts the bytes in whole blocks of zeros. Takes 16 µs for such a block, and next to nothing for others. */
export function zerosIn(bytes: Buffer): number {
  let zeros = 0;
  for (let at = 0; at < bytes.length; at += blockSizeBytes) {
    const block = bytes.subarray(at, at + blockSizeBytes);
    if (isZero(block)) zeros += block.length;
  }
  return zeros;
}

/** Warns if more than half of what was stored without compression is zeros. */
export function adviseOnZeros(parts: SentPart[], { compression, instance }: BackupStart, attempt: Attempt): void {
  if (compression !== 'none') return;
  const sum = (of: (part: SentPart) => number) => parts.reduce((total, part) => total + of(part), 0);
  const [zeros, stored] = [sum((part) => part.zeros ?? 0), sum((part) => part.size)];
  if (zeros < smallestBytes || zeros <= stored / 2) return;
  const ways = optimizable.has(instance.driver) ? '--compression zstd or --optimized' : '--compression zstd';
  attempt.warn(`${sizeText(zeros)} of ${sizeText(stored)} stored are zeros: with ${ways} they take almost no space`);
}

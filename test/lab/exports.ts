import type { ByteSource } from '../../services/archive/blocks.ts';

/** All of an export. Throws when it breaks off; what ends too early gives fewer bytes than were announced. */
export async function bytesOf({ size, source }: { size: number; source: ByteSource }): Promise<Buffer> {
  const bytes = Buffer.alloc(size);
  return bytes.subarray(0, await source.fill(bytes, { signal: new AbortController().signal }));
}

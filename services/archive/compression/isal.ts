/** Binding of Intel's ISA-L, used if it is installed: deflate and CRC-32 at a third of zlib's cost (docs/adr/0029-isa-l.md). */
import { createRequire } from 'node:module';
import zlib from 'node:zlib';
import type * as Koffi from 'koffi';
import { LxstowError } from '../../contract/errors.ts';
import type { Deflate } from './deflate.ts';

/** The first fields of `struct isal_zstream` (igzip_lib.h). */
const streamFields = {
  next_in: 'void *',
  avail_in: 'uint32_t',
  total_in: 'uint32_t',
  next_out: 'void *',
  avail_out: 'uint32_t',
  total_out: 'uint32_t',
  hufftables: 'void *',
  level: 'uint32_t',
  level_buf_size: 'uint32_t',
  level_buf: 'void *',
  end_of_stream: 'uint16_t',
} as const;
/** Room for the whole struct, which has 82 384 bytes in ISA-L 2.30. */
const streamBytes = 128 * 1024;
const level = 1;
/** ISAL_DEF_LVL1_DEFAULT. */
const levelBytes = 282_624;

/** Loads `library`: a name that the system's loader knows, or a path. Throws bad-config when it does not load, or its results disagree with zlib's. */
export function openIsal(library: string): Deflate {
  try {
    const isal = bind(library);
    prove(isal);
    return isal;
  } catch (error) {
    const [why] = (error as Error).message.split('\n');
    throw new LxstowError('bad-config', `gzip.library ${library} cannot be used: ${why}`, { cause: error });
  }
}

function bind(library: string): Deflate {
  const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
  const isal = koffi.load(library);
  const crc32 = isal.func('uint32_t crc32_gzip_refl(uint32_t before, const void *bytes, uint64_t length)');
  const begin = isal.func('void isal_deflate_stateless_init(void *stream)');
  const deflate = isal.func('int isal_deflate_stateless(void *stream)');

  const layout = koffi.struct(streamFields);
  const stream = Buffer.alloc(streamBytes);
  const memory = Buffer.alloc(levelBytes);
  const set = (values: Partial<Record<keyof typeof streamFields, unknown>>) => {
    for (const [name, value] of Object.entries(values))
      koffi.encode(stream, koffi.offsetof(layout, name), streamFields[name as keyof typeof streamFields], value);
  };
  const sizeAt = koffi.offsetof(layout, 'total_out');
  let made = Buffer.alloc(0);
  return {
    crc32: (bytes, before = 0) => crc32(before, bytes, bytes.length),

    deflate(room, length, at) {
      if (made.length < length) made = Buffer.allocUnsafeSlow(length);
      begin(stream);
      set({ level, level_buf: memory, level_buf_size: levelBytes, end_of_stream: 1 });
      set({ next_in: room, avail_in: length, next_out: made, avail_out: Math.max(0, length - 1) });
      // Without a defect, the only failure is an output buffer that is too small: the bytes do not shrink.
      if (deflate(stream) !== 0) return undefined;
      return at + made.copy(room, at, 0, stream.readUInt32LE(sizeAt));
    },
  };
}

/** Tests the library against zlib: one that differs from this binding would write unreadable archives. */
function prove({ deflate, crc32 }: Deflate): void {
  const text = Buffer.from('One line, and another one.\n'.repeat(10_000));
  const packed = Buffer.from(text);
  const size = deflate(packed, text.length, 0);
  if (size === undefined || !zlib.inflateRawSync(packed.subarray(0, size)).equals(text))
    throw new Error('zlib cannot read what it deflates');
  if (crc32(text) !== zlib.crc32(text)) throw new Error("its CRC-32 differs from zlib's");
}

/** Checks the structure of a tar while it streams: LXD can report Success for a truncated one (docs/lxd.md). Also reads and writes single entries. */
import { LxstowError } from '../../contract/errors.ts';

export const tarBlockBytes = 512;
/** Entry types that may state a size, but have no data after the header (POSIX ustar): links, devices, directories, FIFOs. */
const withoutData = new Set(['1', '2', '3', '4', '5', '6'].map((type) => type.charCodeAt(0)));
const paxHeader = 'x'.charCodeAt(0);
const longName = 'L'.charCodeAt(0);
const longLink = 'K'.charCodeAt(0);
/** The limit of Go's archive/tar, with which LXD reads tars. Linux allows 64 KiB for a file's extended attributes of one kind. */
export const largestPaxBytes = 1024 * 1024;

/** A scanner's position in its tar, as plain data. */
export interface TarState {
  entries: number;
  /** Bytes seen. */
  position: number;
  /** Bytes of data and padding still to skip. */
  skip: number;
  zeroBlocks: number;
  sizeOfNext?: number;
  /** base64 of a partly read header. */
  header?: string;
  /** A partly read pax header; `bytes` is base64, `left` the number of missing bytes. */
  pax?: { bytes: string; left: number };
}

/** An entry of a tar, unchanged, for callers that do not trust the tar. */
export interface TarEntry {
  /** 512 bytes, valid until the call returns. */
  header: Buffer;
  /** Size of its data, as this scanner understands it. */
  size: number;
  /** The extension headers before it: pax headers (`x`), GNU's long names (`L`) and link targets (`K`). */
  extensions: { type: 'x' | 'L' | 'K'; data: Buffer }[];
}

/** Called for every entry except `x`, `L` and `K`. If it returns a function, that gets the entry's data. */
export type OnEntry = (entry: TarEntry) => ((bytes: Buffer) => void) | undefined;

/**
 * Call `push` with every chunk, then `finish`. Both throw archive-truncated, naming the byte, when this is not a whole tar. `push` throws
 * archive-corrupt for a pax header over 1 MiB, before it is read.
 */
export class TarScanner {
  /** Makes a scanner that resumes from this state. */
  static from(state: TarState): TarScanner {
    const scanner = new TarScanner();
    scanner.entries = state.entries;
    scanner.#position = state.position;
    scanner.#skip = state.skip;
    scanner.#zeroBlocks = state.zeroBlocks;
    scanner.#sizeOfNext = state.sizeOfNext;
    scanner.#filled = Buffer.from(state.header ?? '', 'base64').copy(scanner.#header);
    if (state.pax) scanner.#pax = { bytes: [Buffer.from(state.pax.bytes, 'base64')], left: state.pax.left };
    return scanner;
  }

  /** The current state, for `from`. */
  state(): TarState {
    return {
      entries: this.entries,
      position: this.#position,
      skip: this.#skip,
      zeroBlocks: this.#zeroBlocks,
      ...(this.#sizeOfNext === undefined ? {} : { sizeOfNext: this.#sizeOfNext }),
      ...(this.#filled === 0 ? {} : { header: this.#header.toString('base64', 0, this.#filled) }),
      ...(this.#pax ? { pax: { bytes: Buffer.concat(this.#pax.bytes).toString('base64'), left: this.#pax.left } } : {}),
    };
  }

  /** `what` names the tar in errors. */
  constructor(what = 'the archive that LXD sent', onEntry?: OnEntry) {
    this.#what = what;
    this.#onEntry = onEntry;
  }

  readonly #what: string;
  readonly #onEntry: OnEntry | undefined;
  /** Kept for `onEntry` only. */
  #extensions: TarEntry['extensions'] = [];
  /** Entries seen, without extension headers. */
  entries = 0;
  /** Bytes of the first file; undefined until it is seen, and in a scanner that resumes after it. */
  firstFileBytes: number | undefined;
  #header = Buffer.alloc(tarBlockBytes);
  #filled = 0;
  /** Bytes of data and padding still to skip. */
  #skip = 0;
  #zeroBlocks = 0;
  #position = 0;
  #pax: { bytes: Buffer[]; left: number; take?: (bytes: Buffer) => void } | undefined;
  #sizeOfNext: number | undefined;

  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#skip > 0) {
        const step = Math.min(this.#skip, chunk.length - at);
        if (this.#pax) this.#collect(this.#pax, chunk.subarray(at, at + step));
        this.#skip -= step;
        at += step;
        if (this.#skip === 0 && this.#pax) this.#collected(this.#pax);
        continue;
      }
      const step = Math.min(tarBlockBytes - this.#filled, chunk.length - at);
      const whole = step === tarBlockBytes;
      if (!whole) chunk.copy(this.#header, this.#filled, at, at + step);
      this.#filled += step;
      at += step;
      if (this.#filled < tarBlockBytes) break;
      this.#filled = 0;
      this.#readHeader(
        whole ? chunk.subarray(at - tarBlockBytes, at) : this.#header,
        this.#position + at - tarBlockBytes,
      );
    }
    this.#position += chunk.length;
  }

  finish(): void {
    if (this.#zeroBlocks >= 2 && this.#filled === 0) return;
    const where = this.#skip > 0 ? 'inside a file' : this.#filled > 0 ? 'inside a header' : 'without its end marker';
    throw new LxstowError('archive-truncated', `${this.#what} ends ${where}, after ${this.#position} bytes`);
  }

  #readHeader(header: Buffer, position: number): void {
    if (isZero(header)) {
      this.#zeroBlocks += 1;
      return;
    }
    if (this.#zeroBlocks > 0) throw this.#broken(position, 'there is data after its end marker');
    if (!checksumFits(header)) throw this.#broken(position, 'there is no tar header where one should be');
    const type = header[156] ?? 0;
    const ownSize = number(header, 124, 12);
    const size = withoutData.has(type) ? 0 : (this.#sizeOfNext ?? ownSize);
    this.#sizeOfNext = undefined;
    this.#skip = roundedUp(size);
    if (type === paxHeader) {
      if (size > largestPaxBytes)
        throw new LxstowError('archive-corrupt', `${this.#what} has a pax header of ${size} bytes at byte ${position}`);
      this.#pax = { bytes: [], left: size };
      if (size === 0) this.#pax = undefined;
    } else if (!isExtension(type)) {
      if (this.entries === 0) this.firstFileBytes = size;
      this.entries += 1;
      this.#beginEntry(header, size);
    } else if (type !== longName && type !== longLink) this.#beginEntry(header, size);
    else if (this.#onEntry) {
      if (size > largestPaxBytes) throw this.#broken(position, `there is a name of ${size} bytes`);
      this.#collectFor(size, (data) => this.#extensions.push({ type: type === longName ? 'L' : 'K', data }));
    }
    if (Number.isNaN(size)) throw this.#broken(position, 'there is a size that is not a number');
  }

  #beginEntry(header: Buffer, size: number): void {
    const take = this.#onEntry?.({ header, size, extensions: this.#extensions });
    this.#extensions = [];
    if (take) this.#collectFor(size, take);
  }

  #collectFor(size: number, take: (bytes: Buffer) => void): void {
    if (size === 0) take(Buffer.alloc(0));
    else this.#pax = { bytes: [], left: size, take };
  }

  #collected(pax: { bytes: Buffer[]; take?: (bytes: Buffer) => void }): void {
    if (!pax.take) this.#readPax(pax);
    else {
      this.#pax = undefined;
      pax.take(Buffer.concat(pax.bytes));
    }
  }

  #broken(position: number, what: string): LxstowError {
    return new LxstowError('archive-truncated', `${this.#what} is damaged: at byte ${position} ${what}`);
  }

  #collect(pax: { bytes: Buffer[]; left: number }, bytes: Buffer): void {
    const useful = Buffer.from(bytes.subarray(0, pax.left));
    pax.left -= useful.length;
    pax.bytes.push(useful);
  }

  /** Parses records "<length> <key>=<value>\n" (POSIX pax). Only the next file's size matters here. */
  #readPax(pax: { bytes: Buffer[] }): void {
    const data = Buffer.concat(pax.bytes);
    const text = data.toString('latin1');
    this.#pax = undefined;
    if (this.#onEntry) this.#extensions.push({ type: 'x', data });
    for (let at = 0; at < text.length; ) {
      // A length has at most ten digits. It must reach beyond its own digits, or this loop would read it for ever.
      const [head, digits] = /^([1-9][0-9]{0,9}) /.exec(text.slice(at, at + 11)) ?? [];
      const length = Number(digits);
      if (!head || length <= head.length) return;
      const [, key, value] = /^([^=]*)=(.*)\n$/s.exec(text.slice(at + head.length, at + length)) ?? [];
      if (key === 'size') this.#sizeOfNext = /^\d+$/.test(value ?? '') ? Number(value) : Number.NaN;
      at += length;
    }
  }
}

/** Reads an entry's name and size from its header; undefined when this is not a header. */
export function readEntry(header: Buffer): { name: string; size: number } | undefined {
  if (isZero(header) || !checksumFits(header)) return undefined;
  const size = withoutData.has(header[156] ?? 0) ? 0 : number(header, 124, 12);
  return Number.isNaN(size) ? undefined : { name: nameIn(header), size };
}

/** The name in a header, ignoring extension headers. */
export function nameIn(header: Buffer): string {
  const [name = '', prefix = ''] = [header.subarray(0, 100), header.subarray(345, 500)].map((field) =>
    field.toString('latin1').replace(/\0.*$/s, ''),
  );
  return prefix ? `${prefix}/${name}` : name;
}

/** Bytes that a file of this size takes in a tar: padded to whole blocks, without its header. */
export function roundedUp(size: number): number {
  return Math.ceil(size / tarBlockBytes) * tarBlockBytes;
}

/** Makes a tar entry (POSIX ustar) for a file that root owns and only root can read. `name` has at most 100 bytes. */
export function fileEntry(name: string, bytes: Buffer): Buffer {
  const entry = Buffer.alloc(tarBlockBytes + roundedUp(bytes.length));
  const octal = (value: number, digits: number) => value.toString(8).padStart(digits, '0');
  entry.write(name, 0);
  entry.write(octal(0o400, 7), 100);
  for (const owner of [108, 116]) entry.write(octal(0, 7), owner);
  entry.write(octal(bytes.length, 11), 124);
  entry.write(octal(0, 11), 136);
  entry.write('0', 156);
  entry.write('ustar\u000000', 257);
  entry.write(`${octal(sumOf(entry), 6)}\u0000 `, 148);
  bytes.copy(entry, tarBlockBytes);
  return entry;
}

/** GNU long names (L, K) and pax headers (x, g) describe the entry after them. */
function isExtension(type: number): boolean {
  return 'LKxg'.includes(String.fromCharCode(type));
}

const zeros = Buffer.alloc(tarBlockBytes);

function isZero(block: Buffer): boolean {
  return block.equals(zeros);
}

function checksumFits(header: Buffer): boolean {
  return sumOf(header) === number(header, 148, 8);
}

/** The sum of a header's bytes, with the checksum field read as blanks. */
function sumOf(header: Buffer): number {
  let sum = 8 * 0x20;
  for (let i = 0; i < tarBlockBytes; i++) if (i < 148 || i >= 156) sum += header[i] ?? 0;
  return sum;
}

/** Parses octal digits, or GNU's base 256, which has the top bit set. NaN for anything else: a negative size would make a reader go backwards. */
function number(header: Buffer, at: number, length: number): number {
  const field = header.subarray(at, at + length);
  if (((field[0] ?? 0) & 0x80) === 0) {
    const [, digits] = /^ *([0-7]*) *(?:\0.*)?$/s.exec(field.toString('latin1')) ?? [];
    return digits === undefined ? Number.NaN : Number.parseInt(digits || '0', 8);
  }
  return field.subarray(1).reduce((value, byte) => value * 256 + byte, (field[0] ?? 0) & 0x7f);
}

/** Handles the start of a restore's tar: checks LXD's index before anything is sent, and adds backup.yaml if it is missing. */
import { indexName, largestIndexBytes } from './indexYaml.ts';
import { fileEntry, readEntry, roundedUp, tarBlockBytes } from './tar.ts';

export interface IndexFormat {
  /** LXD 6 writes version 2 since 2025. Only servers with the extension `backup_metadata_version` read it. */
  version: number;
}

/** Room for the index, some directories, and the first file of the volume. */
const mostBytes = 2 * largestIndexBytes;

/**
 * Call `push` with every chunk of LXD's tar, and send what it returns; then send `rest`. Holds back the first chunks until it has the index
 * and the first file of the volume. When `judge` throws, nothing has been sent.
 *
 * LXD since 2026 leaves `backup.yaml` out of archives in tar format, and Incus 6.0 and Debian 12's LXD refuse such archives. The file is the
 * `config` part of the index, so it can be rebuilt. An archive that has the file is not changed.
 */
export class TarHead {
  constructor(judge: (format: IndexFormat) => void) {
    this.#judge = judge;
  }

  readonly #judge: (format: IndexFormat) => void;
  /** The first bytes, while they are held back. The result must not depend on how the tar is cut into chunks. */
  #held: Buffer | undefined = Buffer.allocUnsafe(mostBytes);
  #size = 0;
  /** Offset of the next entry. */
  #next = 0;
  #found: Found | undefined;

  /** Returns the bytes to send instead of `chunk`; they may share its memory. */
  push(chunk: Buffer): Buffer[] {
    if (!this.#held) return [chunk];
    const taken = chunk.copy(this.#held, this.#size);
    this.#size += taken;
    const head = this.#held.subarray(0, this.#size);
    const isFound = this.#look(head);
    if (!isFound && this.#size < mostBytes) return [];
    this.#held = undefined;
    const rest = chunk.subarray(taken);
    const pieces = [head, rest];
    if (isFound && this.#found) {
      const { config, end, lacks } = this.#found;
      this.#judge({ version: Number(/^version: (\d+)$/m.exec(config)?.[1] ?? 1) });
      if (lacks) pieces.splice(0, 1, head.subarray(0, end), fileEntry(lacks, Buffer.from(config)), head.subarray(end));
    }
    return pieces.filter(({ length }) => length > 0);
  }

  /** Returns the bytes that are still held back, when the tar was too short to judge. */
  rest(): Buffer[] {
    return this.#held ? [this.#held.subarray(0, this.#size)] : [];
  }

  /** Continues with the entries of `head`. Returns false while `head` is too short to decide. */
  #look(head: Buffer): boolean {
    while (this.#next + tarBlockBytes <= head.length) {
      const entry = readEntry(head.subarray(this.#next, this.#next + tarBlockBytes));
      if (!entry) return true;
      const start = this.#next + tarBlockBytes;
      const end = start + roundedUp(entry.size);
      if (entry.name === indexName) {
        if (head.length < end) return false;
        const index = head.toString('utf8', start, start + entry.size);
        this.#found = { config: configOf(index), end, lacks: undefined };
        // An optimized archive has the volume in the file system's own format, with the file in it.
        if (this.#found.config === '' || /^optimized: true$/m.test(index)) return true;
      }
      this.#next = end;
      const [inVolume, kind, file] = volumeFile.exec(entry.name) ?? [];
      if (!inVolume) continue;
      // LXD writes the index first. A backup.yaml before it was judged with the archive: ours would replace it.
      if (!this.#found) return true;
      // LXD writes a volume's files in order of their names.
      if (file !== undefined && file < backupFile) continue;
      if (file !== backupFile)
        this.#found.lacks = `backup/${kind?.startsWith('v') ? 'virtual-machine' : 'container'}/${backupFile}`;
      return true;
    }
    return false;
  }
}

/** Returns the tar as a restore would send it: with its backup.yaml. */
export async function* completed(tar: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const head = new TarHead(() => undefined);
  for await (const chunk of tar) yield* head.push(chunk);
  yield* head.rest();
}

interface Found {
  /** The index's `config`, as the content of backup.yaml. Empty if it cannot be extracted. */
  config: string;
  /** Offset of the first byte after the index. */
  end: number;
  /** The name of the missing file; undefined when none is missing. */
  lacks: string | undefined;
}

const backupFile = 'backup.yaml';
/** Path of a file in the volume of the instance or of a snapshot, or of a virtual machine's disk, which follows its volume. */
const volumeFile =
  /^backup\/(container|snapshots\/[^/]+|virtual-machine|virtual-machine-snapshots\/[^/]+?)(?:\/(.+)|\.img)$/;

/**
 * Extracts the lines of `config`, without the two spaces by which Go's YAML indents them. Empty when the index is formatted differently: every line at the
 * margin must be a key or an item with its value on that line, so that no text inside a value can be taken for `config`.
 */
function configOf(index: string): string {
  const atMargin = index.split('\n').filter((line) => /^[^ ]/.test(line));
  if (!atMargin.every((line) => goLine.test(line))) return '';
  if (atMargin.filter((line) => line.startsWith('config:')).length !== 1) return '';
  const [, lines = ''] = /^config:\n((?: {2}.*\n|\n)+)/m.exec(index) ?? [];
  return lines.replace(/^ {2}/gm, '');
}

/** `key:`, `key: value` or `- value`; the value plain, or quoted and whole. */
const goLine = /^(?:[a-z_]+:|(?:[a-z_]+:|-) (?:[^\s"'|>&*!{[?%@`#].*|"[^"\\]*"|'[^']*'|\[\]|\{\}))$/;

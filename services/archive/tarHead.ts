/** The beginning of a restore: LXD's index is looked at before anything is sent, and a backup.yaml that is missing is put back. */
import { indexName, largestIndexBytes } from './lxdIndex.ts';
import { fileEntry, readEntry, roundedUp, tarBlockBytes } from './tar.ts';

/** What an index.yaml says of itself. */
export interface IndexFormat {
  /** LXD 6 has written version 2 since 2025; only servers with the extension `backup_metadata_version` read it. */
  version: number;
}

/** The index, some directories, and the first file of the volume. */
const mostBytes = 2 * largestIndexBytes;

/**
 * Give it every chunk of a tar that LXD made, and send what it returns. Holds back the first chunks until the index and the first file of the
 * volume are there. `judge` may throw: nothing has been sent then.
 *
 * LXD since 2026 leaves `backup.yaml` out of archives in tar format, and Incus 6.0 and Debian 12's LXD refuse those. The file is the part
 * `config` of the index, so it can be given back; an archive that has it is left as it is.
 */
export class TarHead {
  constructor(judge: (format: IndexFormat) => void) {
    this.#judge = judge;
  }

  readonly #judge: (format: IndexFormat) => void;
  #held: Buffer | undefined = Buffer.alloc(0);

  /** The bytes to send in the place of `chunk`; they may share its memory. */
  push(chunk: Buffer): Buffer[] {
    if (!this.#held) return [chunk];
    const head = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const found = look(head);
    if (found === undefined && head.length < mostBytes) {
      // The caller uses the chunk's memory again.
      this.#held = head === chunk ? Buffer.from(chunk) : head;
      return [];
    }
    this.#held = undefined;
    if (!found) return [head];
    const { config, end, lacks } = found;
    this.#judge({ version: Number(/^version: (\d+)$/m.exec(config)?.[1] ?? 1) });
    if (!lacks) return [head];
    return [head.subarray(0, end), fileEntry(lacks, Buffer.from(config)), head.subarray(end)];
  }

  /** What is held back of a tar that ended before its beginning was understood. */
  rest(): Buffer[] {
    return this.#held && this.#held.length > 0 ? [this.#held] : [];
  }
}

interface Found {
  /** The index's `config`, as a file of its own. */
  config: string;
  /** The byte behind the index. */
  end: number;
  /** The name of the file that is missing. */
  lacks: string | undefined;
}

/** Undefined while too little of the tar is there to tell. */
function look(head: Buffer): Found | undefined {
  let found: Found | undefined;
  for (let at = 0; at + tarBlockBytes <= head.length; ) {
    const entry = readEntry(head.subarray(at, at + tarBlockBytes));
    if (!entry) return found;
    const start = at + tarBlockBytes;
    at = start + roundedUp(entry.size);
    if (entry.name === indexName) {
      if (head.length < at) return undefined;
      const index = head.toString('utf8', start, start + entry.size);
      found = { config: configOf(index), end: at, lacks: undefined };
      // Optimized: the volume is in the file system's own format, and has the file.
      if (found.config === '' || /^optimized: true$/m.test(index)) return found;
      continue;
    }
    const [, kind, file = ''] = volumeFile.exec(entry.name) ?? [];
    if (!found || file < backupFile) continue;
    // LXD writes the files of a volume in the order of their names.
    if (file !== backupFile)
      found.lacks = `backup/${kind?.startsWith('v') ? 'virtual-machine' : 'container'}/${backupFile}`;
    return found;
  }
  return undefined;
}

const backupFile = 'backup.yaml';
/** A file in the volume of the instance or of a snapshot. */
const volumeFile = /^backup\/(container|snapshots\/[^/]+|virtual-machine|virtual-machine-snapshots\/[^/]+)\/(.+)$/;

/** The lines of `config`, as Go's YAML writes a mapping in a mapping: two spaces deeper. Empty where the index is written otherwise. */
function configOf(index: string): string {
  const [, lines = ''] = /^config:\n((?: {2}.*\n|\n)+)/m.exec(index) ?? [];
  return lines.replace(/^ {2}/gm, '');
}

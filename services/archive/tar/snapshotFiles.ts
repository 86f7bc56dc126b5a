/** Finds the snapshots that an index names and the archive does not have. LXD relies on the index, and cannot import such an archive. */
import { LxstowError } from '../../contract/errors.ts';
import { notLxds } from './indexYaml.ts';
import { nameIn, type TarEntry, TarScanner } from './tar.ts';

/** A snapshot's folder, its file system in one file, or the disk of a virtual machine. */
const snapshotFile = /^(?:\.\/)?backup\/(?:virtual-machine-)?snapshots\/([^/]+)/;
const endings = ['', '.bin', '.img'];

export class SnapshotFiles {
  /** Names of snapshots not seen yet, as bytes, as in a tar. */
  readonly #missing: Set<string>;

  constructor(snapshots: readonly string[]) {
    this.#missing = new Set(snapshots.map((name) => Buffer.from(name).toString('latin1')));
  }

  see({ header, extensions }: TarEntry): void {
    if (this.#missing.size === 0) return;
    for (const name of [nameIn(header), ...extensions.map(nameOf)]) {
      const [, file = ''] = snapshotFile.exec(name) ?? [];
      for (const ending of endings)
        if (file.endsWith(ending)) this.#missing.delete(file.slice(0, file.length - ending.length));
    }
  }

  /** The names of snapshots that were not seen. */
  missing(): string[] {
    return [...this.#missing].map((name) => Buffer.from(name, 'latin1').toString());
  }

  /** Call it at the end of the archive. Throws bad-request. */
  finish(): void {
    const [missing] = this.missing();
    if (missing !== undefined) throw notLxds(`it has no files of snapshot ${missing}, which its index names`);
  }
}

function nameOf({ type, data }: TarEntry['extensions'][number]): string {
  const text = data.toString('latin1');
  if (type === 'L') return text.replace(/\0.*$/s, '');
  return type === 'x' ? (/^\d+ path=(.*)$/m.exec(text)?.[1] ?? '') : '';
}

/** Scans the tar that a restore sends. If a snapshot is only in the index, LXD fails to import the tar, and may not say why; this scan can. */
export class SnapshotScan {
  readonly #files: SnapshotFiles;
  readonly #scanner: TarScanner;
  #isReadable = true;

  constructor(snapshots: readonly string[]) {
    this.#files = new SnapshotFiles(snapshots);
    this.#scanner = new TarScanner('the archive', (entry) => void this.#files.see(entry));
    this.#isReadable = snapshots.length > 0;
  }

  push(bytes: Buffer): void {
    if (!this.#isReadable) return;
    try {
      this.#scanner.push(bytes);
    } catch {
      // Leave it to LXD to judge this tar.
      this.#isReadable = false;
    }
  }

  /** Returns the error, or a permanent one if the archive lacks a snapshot, which made LXD fail. */
  explain(error: unknown): unknown {
    const text = this.#isReadable && error instanceof LxstowError ? error.message : '';
    const lost = this.#files
      .missing()
      .find((name) => text.includes(`snapshots/${name}:`) || text.includes(`snapshots/${name}.`));
    if (lost === undefined) return error;
    const why = `the archive has no files of snapshot ${lost}, which its index names: LXD cannot import it`;
    return new LxstowError('archive-corrupt', why, { cause: error });
  }
}

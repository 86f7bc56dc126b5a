/**
 * Reads everything in a limited client's archive that LXD could take as the instance's configuration. LXD checks a project's limits against
 * `backup/index.yaml`, but creates the instance from the `backup.yaml` that GNU tar unpacks, and the two may differ. So whatever two readers of tars could
 * understand differently is refused; LXD writes nothing of the kind.
 */
import { LxstowError } from '../../contract/errors.ts';
import { largestIndexBytes } from './indexYaml.ts';
import type { OnEntry, TarEntry } from './tar.ts';

/** Entry types of files, and of entries without data: links, devices, directories, FIFOs. */
const files = ['0', '\0'];
const hardLink = '1';
const directory = '5';
const withoutData = [hardLink, '2', '3', '4', directory, '6'];
/** The keys of pax records that are paths. */
const pathKeys = new Set(['path', 'linkpath', 'GNU.sparse.name']);

export class ConfigFiles {
  readonly #refuse: (why: string) => LxstowError;
  #hasIndex = false;
  /** The `backup.yaml` of the instance. */
  found: Buffer | undefined;

  /** `refuse` makes the error for an archive that LXD might understand differently. */
  constructor(refuse: (why: string) => LxstowError) {
    this.#refuse = refuse;
  }

  /** Throws if an entry's name or data is hidden from us, but not from tar. */
  readonly onEntry: OnEntry = (entry) => {
    const type = entry.header.toString('latin1', 156, 157);
    const { names, targets, sparse } = this.#read(entry, type);
    const paths = names.map(componentsOf);
    for (const path of paths) {
      if (path.includes('..')) throw this.#refuse('a name in it has `..`');
      // If an archive does not say whether it is optimized, LXD takes it as optimized when it contains such a file.
      if (isVolumeFile(path)) throw this.#refuse(`it has ${path.join('/')}, which is a file system in itself`);
      if (files.includes(type) || type === directory || path[0] !== 'backup') continue;
      // LXD follows links next to the instance's own files: it reads templates through them, and if `rootfs` were a link, everything below it would be elsewhere.
      const root = rootOf(path);
      if (root === undefined) throw this.#refuse(`${path.join('/')} is a link, or not a file`);
      if (type === hardLink && targets.some((target) => rootOf(target) !== root))
        throw this.#refuse(`${path.join('/')} is a link out of its root`);
    }
    const isPlain = files.includes(type) && !sparse;
    if (paths.some((path) => path.join('/') === 'backup/index.yaml')) this.#index(isPlain);
    return paths.some(isConfig) ? this.#config(isPlain, entry.size) : undefined;
  };

  /** Every name and link target that some reader could take as the entry's. */
  #read(
    { header, size, extensions }: TarEntry,
    type: string,
  ): { names: string[]; targets: string[][]; sparse: boolean } {
    const isFile = files.includes(type);
    if (!isFile && !withoutData.includes(type)) throw this.#refuse(`it has an entry of type ${JSON.stringify(type)}`);
    // GNU tar skips data behind directories and symbolic links, too.
    const stated = statedSize(header);
    if (stated === undefined || (!isFile && stated > 0)) throw this.#refuse('an entry has a wrong size');
    const own = textAt(header, 0, 100);
    // In a header of GNU tar, the prefix field contains times, not a prefix.
    const names = [own, `${textAt(header, 345, 500)}/${own}`];
    const targets = [textAt(header, 157, 257)];
    let said: number | undefined;
    let sparse = false;
    for (const { type: kind, data } of extensions) {
      if (kind !== 'x') (kind === 'L' ? names : targets).push(textAt(data, 0, data.length));
      else {
        const records = recordsOf(data) ?? this.#malformed();
        for (const [key, value] of records) {
          if (pathKeys.has(key)) {
            // GNU tar ends a name at a NUL.
            if (value.includes('\0')) this.#malformed();
            (key === 'linkpath' ? targets : names).push(value);
          }
          if (key.startsWith('GNU.sparse.')) sparse = true;
          if (key === 'size') said = /^\d+$/.test(value) ? Number(value) : Number.NaN;
        }
      }
    }
    // A header has room for 8 GiB.
    const isSame = said === undefined || said === stated || said > 0o77777777777;
    if (!isSame || (said ?? stated) !== size) throw this.#refuse('an entry has a wrong size');
    return { names, targets: targets.map(componentsOf), sparse };
  }

  #malformed(): never {
    throw this.#refuse('a pax header in it is malformed');
  }

  #index(isPlain: boolean): void {
    if (this.#hasIndex || !isPlain) throw this.#refuse('it has more than one backup/index.yaml');
    this.#hasIndex = true;
  }

  #config(isPlain: boolean, size: number): (bytes: Buffer) => void {
    if (this.found || !isPlain) throw this.#refuse('it has more than one backup.yaml, or one that is not a file');
    if (size > largestIndexBytes)
      throw new LxstowError('too-large', `its backup.yaml has ${size} bytes: 1 MiB at most`);
    return (bytes) => {
      this.found = bytes;
    };
  }
}

/** The size that a header states; undefined if readers could see different numbers. */
function statedSize(header: Buffer): number | undefined {
  const [, octal] = /^ *([0-7]+)[ \0]*$/.exec(header.toString('latin1', 124, 136)) ?? [];
  if (octal !== undefined) return Number.parseInt(octal, 8);
  // Base 256, GNU's encoding for sizes above 8 GiB.
  return header[124] === 0x80 ? header.subarray(125, 136).reduce((value, byte) => value * 256 + byte, 0) : undefined;
}

function textAt(bytes: Buffer, from: number, to: number): string {
  return bytes.toString('latin1', from, to).replace(/\0.*$/s, '');
}

/** Parses records `<length> <key>=<value>\n`; undefined if the data contains anything else. */
function recordsOf(data: Buffer): [key: string, value: string][] | undefined {
  const text = data.toString('latin1');
  const records: [string, string][] = [];
  for (let at = 0; at < text.length; ) {
    const [, digits = ''] = /^([1-9]\d{0,9}) /.exec(text.slice(at, at + 11)) ?? [];
    const length = Number(digits);
    const [, key, value] = /^([^=\s\0]+)=(.*)\n$/s.exec(text.slice(at + digits.length + 1, at + length)) ?? [];
    if (digits === '' || at + length > text.length || key === undefined || value === undefined) return undefined;
    records.push([key, value]);
    at += length;
  }
  return records;
}

function componentsOf(name: string): string[] {
  return name.split('/').filter((each) => each !== '' && each !== '.');
}

/** `backup/container/backup.yaml`, or that of a virtual machine. */
function isConfig(path: string[]): boolean {
  return path.length === 3 && path[0] === 'backup' && path[2] === 'backup.yaml';
}

/** `backup/container.bin`, `backup/snapshots/first.bin`, and a virtual machine's. */
function isVolumeFile([top, ...path]: string[]): boolean {
  return top === 'backup' && path.length > 0 && path.length <= 2 && path.at(-1)?.endsWith('.bin') === true;
}

/** The root file system that a path is in: the instance's, or a snapshot's. */
function rootOf(path: string[]): string | undefined {
  const [, root] =
    /^(backup\/(?:container|snapshots\/[^/]+)\/rootfs)\/(?!(?:.*\/)?\.\.(?:\/|$))/.exec(path.join('/')) ?? [];
  return root;
}

/**
 * What an archive from a client who is limited says of its instance, wherever LXD could read it. LXD checks a project's limits against
 * `backup/index.yaml`, and makes the instance of `backup.yaml`: they may differ.
 */
import { LxstowError } from '../errors.ts';
import { largestIndexBytes } from './lxdIndex.ts';
import type { OnEntry, TarEntry } from './tar.ts';

const isFile = (type: string) => type === '0' || type === '\0';
const isLink = (type: string) => type === '1' || type === '2';

export class ConfigFiles {
  readonly #refuse: (why: string) => LxstowError;
  #hasIndex = false;
  /** The `backup.yaml` of the instance. */
  found: Buffer | undefined;

  /** `refuse` makes the error for an archive of which nobody can say what LXD would make. */
  constructor(refuse: (why: string) => LxstowError) {
    this.#refuse = refuse;
  }

  /** Throws for what hides an entry's name or data from us, but not from tar. */
  readonly onEntry: OnEntry = (entry) => {
    const paths = entry.names.map(componentsOf);
    for (const path of paths) {
      if (path.includes('..')) throw this.#refuse('a name in it has `..`');
      // `backup/container/rootfs` as a link would lead what is below it elsewhere.
      if (isLink(entry.type) && path[0] === 'backup' && path.length <= 3)
        throw this.#refuse(`${path.join('/')} is a link`);
    }
    if (paths.some((path) => path.join('/') === 'backup/index.yaml')) this.#index(entry);
    return paths.some(isConfig) ? this.#config(entry) : undefined;
  };

  #index({ type, sparse }: TarEntry): void {
    if (this.#hasIndex || !isFile(type) || sparse) throw this.#refuse('it has more than one backup/index.yaml');
    this.#hasIndex = true;
  }

  #config({ type, size, sparse }: TarEntry): (bytes: Buffer) => void {
    if (this.found || !isFile(type) || sparse)
      throw this.#refuse('it has more than one backup.yaml, or one that is no file');
    if (size > largestIndexBytes)
      throw new LxstowError('too-large', `its backup.yaml has ${size} bytes: 1 MiB at most`);
    return (bytes) => {
      this.found = bytes;
    };
  }
}

function componentsOf(name: string): string[] {
  return name.split('/').filter((each) => each !== '' && each !== '.');
}

/** `backup/container/backup.yaml`, or that of a virtual machine. */
function isConfig(path: string[]): boolean {
  return path.length === 3 && path[0] === 'backup' && path[2] === 'backup.yaml';
}

/** Where `lxstow init` puts its files: for root below /etc and /var, for others below their home. */
import { readFileSync, realpathSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { systemCode } from '../contract/errors.ts';

export interface Places {
  config: string;
  /** Certificate, NATS's files, log. */
  state: string;
  /** The recovery page. */
  page: string;
  /** What init did, for its next run and for --undo. */
  record: string;
  /** Whether it is set up for the whole machine, so that systemd may run it. */
  system: boolean;
}

/** What init did. */
export interface InitRecord {
  /** Whether there was a configuration before; it is kept next to the new one. */
  hadConfiguration: boolean;
  state: string;
  /** Whether the state directory had NATS's files before: those of a standalone that was set up by hand. Then --undo leaves it. */
  hadState?: boolean;
  /** Whether init has created the schedule. */
  madeNightly?: boolean;
  natsPort: number;
  service: 'systemd' | 'background';
  /** Files that it wrote for systemd. */
  units: string[];
  /** The client's name for the gateway. */
  gateway?: string;
  /** Where backups go, in words. */
  store: string;
  /** Digest of what the service was started with. If it differs, the service is restarted. */
  started?: string;
  /** Whether init was interrupted: then it asks all questions again. */
  unfinished?: boolean;
}

const systemFolder = '/etc/lxstow';

/** `file`: the configuration that is named or found; undefined if there is none. */
export function placesFor(file: string | undefined, env: NodeJS.ProcessEnv, root: boolean): Places {
  const own = join(env.XDG_CONFIG_HOME || join(homedir(), '.config'), 'lxstow');
  const config = resolve(file ?? join(root ? systemFolder : own, 'lxstow.yaml'));
  const folder = dirname(config);
  const system = root && folder === systemFolder;
  const state = system ? '/var/lib/lxstow' : join(env.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'lxstow');
  return { config, state, page: join(folder, 'recovery.md'), record: join(folder, 'init.json'), system };
}

/** The path without symbolic links, as far as it exists. */
export function withoutLinks(path: string): string {
  if (path === '/') return path;
  try {
    return realpathSync(path);
  } catch {
    return join(withoutLinks(dirname(path)), basename(path));
  }
}

export function readRecord({ record }: Places): InitRecord | undefined {
  try {
    return JSON.parse(readFileSync(record, 'utf8'));
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

export async function writeRecord({ record }: Places, content: InitRecord): Promise<void> {
  await writeSecret(record, `${JSON.stringify(content, null, 2)}\n`);
}

/** Writes a file that only its owner may read, even if it existed with another mode. After an interruption, it has either the old or the new content. */
export async function writeSecret(file: string, content: string): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const part = `${file}.part`;
  await rm(part, { force: true });
  await writeFile(part, content, { mode: 0o600, flag: 'wx' });
  await rename(part, file);
}

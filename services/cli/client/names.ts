/** What users name: `[remote:]instance`, and a backup of it. */
import { CliError, exits } from '../exit.ts';
import { type Gateway, openGateway } from './gatewayClient.ts';
import { nearest } from './nearest.ts';
import { findRemote, type Identity, identity } from './remotes.ts';

/** Which of the backups that the gateway's remotes have: `--project` and `--target`. */
export interface Place {
  project?: string;
  target?: string;
}

export interface InstancePlace {
  gateway: Gateway;
  /** Empty where only `remote:` was given. */
  instance: string;
  /** For the query of every request about it. */
  place: { project: string | undefined; target: string | undefined };
}

/** A backup in a list. */
export interface ShownBackup {
  name: string;
  created: string;
  size: number;
  optimized: boolean;
  compressed: boolean;
  tags?: Record<string, string>;
  instance?: string;
  project?: string;
  location?: string;
}

/** Gateways of one command, each opened once. */
export class Gateways implements Disposable {
  readonly #open = new Map<string, Gateway>();
  #identity: Promise<Identity> | undefined;

  async get(name: string | undefined): Promise<Gateway> {
    const remote = await findRemote(name);
    this.#identity ??= identity();
    const own = await this.#identity;
    const gateway = this.#open.get(remote.name) ?? openGateway(remote, own);
    this.#open.set(remote.name, gateway);
    return gateway;
  }

  /** `[remote:]instance`, or `remote:` alone. */
  async instance(text: string, { project, target }: Place): Promise<InstancePlace> {
    const cut = text.indexOf(':');
    const gateway = await this.get(cut < 0 ? undefined : text.slice(0, cut));
    return { gateway, instance: text.slice(cut + 1), place: { project: project ?? gateway.remote.project, target } };
  }

  /** The same where an instance must be named. */
  async oneInstance(text: string, place: Place): Promise<InstancePlace> {
    const found = await this.instance(text, place);
    if (found.instance === '') throw new CliError(exits.usage, `${JSON.stringify(text)} names no instance`);
    return found;
  }

  [Symbol.dispose](): void {
    for (const gateway of this.#open.values()) gateway[Symbol.dispose]();
  }
}

/** Their backups, the oldest first. `everywhere`: of all projects, where none is named. */
export async function listBackups(
  { gateway, instance, place }: InstancePlace,
  everywhere = false,
): Promise<ShownBackup[]> {
  const query = everywhere ? { ...place, 'all-projects': 'true' } : place;
  const found: ShownBackup[] = await gateway.ask('GET', ['instances', instance || '*', 'backups'], { query });
  // The API takes an instance named `all` for all instances.
  const wanted = instance === 'all' ? found.filter((each) => each.instance === instance) : found;
  const owner = ({ location = '', project = '', instance = '' }: ShownBackup) => `${location} ${project} ${instance}`;
  return wanted.sort((a, b) => compare(owner(a), owner(b)) || compare(a.created, b.created));
}

/** A backup's name; `latest` is the one made last. Throws when there is none. */
export async function backupName(where: InstancePlace, name: string): Promise<string> {
  if (name !== 'latest') return name;
  const last = (await listBackups(where)).at(-1);
  if (last) return last.name;
  throw new CliError(exits.notFound, `${where.instance} has no backups`, { hint: `lxstow backup ${where.instance}` });
}

/** Runs it; when there is no such instance or backup, the error says which one may have been meant. */
export async function suggesting<T>(
  where: InstancePlace,
  backup: string | undefined,
  run: () => Promise<T>,
): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof CliError) || error.exit !== exits.notFound || error.hint) throw error;
    // A pool, a project or a remote is no backup that was mistyped.
    if (!/^(instance|backup) /.test(error.message)) throw error;
    const hint = await suggestion(where, backup).catch(() => undefined);
    throw hint === undefined ? error : new CliError(error.exit, error.message, { hint, cause: error });
  }
}

async function suggestion(where: InstancePlace, backup: string | undefined): Promise<string | undefined> {
  const all = await listBackups({ ...where, instance: '' });
  const own = all.filter(({ instance }) => instance === where.instance);
  if (backup !== undefined && own.length > 0) {
    const day = /^(?:backup_)?(\d{4}-\d{2}-\d{2})/.exec(backup)?.[1];
    const ofDay = own.filter(({ created }) => day !== undefined && created.startsWith(day)).map(({ name }) => name);
    if (ofDay.length > 0) return `of that day (UTC): ${ofDay.join(', ')}`;
    const near = nearest(backup, ['latest', ...own.map(({ name }) => name)]);
    return near && day === undefined ? `did you mean ${near}?` : `those that there are: lxstow list ${where.instance}`;
  }
  const running = backup === undefined ? await instanceNames(where).catch(() => []) : [];
  const near = nearest(where.instance, new Set([...running, ...all.map(({ instance = '' }) => instance)]));
  return near && near !== where.instance ? `did you mean ${near}?` : undefined;
}

/** An instance of LXD, as far as the command line looks at it. */
export interface ShownInstance {
  name: string;
  status: string;
  type: string;
  architecture: string;
  location: string;
  config: Record<string, string>;
  expanded_config?: Record<string, string>;
}

export function listInstances({ gateway, place }: InstancePlace): Promise<ShownInstance[]> {
  return gateway.ask('GET', ['instances'], { query: { ...place, recursion: '1' } });
}

async function instanceNames(where: InstancePlace): Promise<string[]> {
  return (await listInstances(where)).map(({ name }) => name);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

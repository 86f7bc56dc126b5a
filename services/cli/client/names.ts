/** Resolves names that users type: `[gateway:]instance`, and a backup of it. */
import { isAhead } from '../../contract/durations.ts';
import type { ListedBackup } from '../../contract/schemas.ts';
import { CliError, exits } from '../exit.ts';
import { say } from '../terminal/output.ts';
import { Gateway, type ShownOperation } from './gatewayClient.ts';
import { nearest } from './nearest.ts';
import { findRemote, type Identity, identity } from './remotes.ts';

/** Project and host of an instance: `--project` and `--target`. */
export interface Scope {
  project?: string;
  target?: string;
}

export interface NamedInstance {
  gateway: Gateway;
  /** Empty if only a gateway was given, as `NAME:`. */
  instance: string;
  /** Query parameters of every request about it. */
  scope: { project: string | undefined; target: string | undefined };
}

/** The gateways of one command, each opened once. */
export class Gateways implements Disposable {
  readonly #open = new Map<string, Gateway>();
  #identity: Promise<Identity> | undefined;

  /** The gateway with this name, with or without its colon, or the default one. */
  async get(name: string | undefined): Promise<Gateway> {
    const remote = await findRemote(name?.replace(/:$/, ''));
    this.#identity ??= identity();
    const own = await this.#identity;
    const gateway = this.#open.get(remote.name) ?? new Gateway(remote, own);
    this.#open.set(remote.name, gateway);
    return gateway;
  }

  /** `[gateway:]instance`, or `gateway:` alone. */
  async instance(text: string, { project, target }: Scope): Promise<NamedInstance> {
    const cut = text.indexOf(':');
    const gateway = await this.get(cut < 0 ? undefined : text.slice(0, cut));
    return { gateway, instance: text.slice(cut + 1), scope: { project: project ?? gateway.remote.project, target } };
  }

  /** `[gateway:]instance`. */
  async oneInstance(text: string, scope: Scope): Promise<NamedInstance> {
    const found = await this.instance(text, scope);
    if (found.instance === '') throw new CliError(exits.usage, `${JSON.stringify(text)} names no instance`);
    return found;
  }

  /** `[gateway:]name…`, or `gateway:` alone. All must be on one gateway. */
  async ofOne(texts: string[]): Promise<{ gateway: Gateway; names: string[] }> {
    const prefixes = new Set(texts.map((text) => (text.includes(':') ? text.slice(0, text.indexOf(':')) : undefined)));
    if (prefixes.size > 1) throw new CliError(exits.usage, 'a run has one gateway: name instances of only one gateway');
    const names = texts.map((text) => text.slice(text.indexOf(':') + 1)).filter((name) => name !== '');
    return { gateway: await this.get([...prefixes][0]), names };
  }

  /** `[gateway:]id` */
  async withId(text: string): Promise<{ gateway: Gateway; id: string }> {
    const cut = text.indexOf(':');
    return { gateway: await this.get(cut < 0 ? undefined : text.slice(0, cut)), id: text.slice(cut + 1) };
  }

  /** `[gateway:]schedule` */
  async schedule(text: string): Promise<{ gateway: Gateway; name: string }> {
    const { gateway, id: name } = await this.withId(text);
    if (name === '') throw new CliError(exits.usage, `${JSON.stringify(text)} names no schedule`);
    return { gateway, name };
  }

  [Symbol.dispose](): void {
    for (const gateway of this.#open.values()) gateway[Symbol.dispose]();
  }
}

/** Lists backups, oldest first. `everywhere`: those of all projects. */
export async function listBackups(
  { gateway, instance, scope }: NamedInstance,
  everywhere = false,
): Promise<ListedBackup[]> {
  const query = everywhere ? { ...scope, 'all-projects': 'true' } : scope;
  const path = ['instances', instance || '*', 'backups'];
  const found: ListedBackup[] = await Array.fromAsync(gateway.list(path, query, 'read-answers.json#/$defs/backups'));
  // In the API, the instance name `all` means all instances.
  const wanted = instance === 'all' ? found.filter((each) => each.instance === instance) : found;
  const owner = ({ location, project, instance }: ListedBackup) => `${location} ${project} ${instance}`;
  return wanted.sort((a, b) => compare(owner(a), owner(b)) || compare(a.created, b.created));
}

/**
 * The newest of an instance's backups, which are oldest first. One from the future, by this machine's clock and the gateway's, comes from a wrong clock: it counts only if there is no
 * other, and is named on standard error.
 */
export function newestOf(gateway: Gateway, backups: ListedBackup[]): ListedBackup | undefined {
  const now = new Date(Math.max(Date.now(), gateway.clockMs));
  const last = backups.at(-1);
  if (!last || !isAhead(Date.parse(last.created), now)) return last;
  const newest = backups.findLast(({ created }) => !isAhead(Date.parse(created), now));
  const instead = newest ? `${newest.name} is taken instead` : 'there is no other';
  say(`${last.instance}: ${last.name} is dated in the future, by a wrong clock; ${instead}`);
  return newest ?? last;
}

/** Resolves `latest` to the name of the newest backup. Throws not-found if there is none. */
export async function backupName(where: NamedInstance, name: string): Promise<string> {
  if (name !== 'latest') return name;
  const newest = newestOf(where.gateway, await listBackups(where));
  if (newest) return newest.name;
  throw new CliError(exits.notFound, `${where.instance} has no backups`, { hint: `lxstow backup ${where.instance}` });
}

/** Runs `run`. If it throws an error about an unknown instance or backup, adds a hint with the nearest name. */
export async function suggesting<T>(
  where: NamedInstance,
  backup: string | undefined,
  run: () => Promise<T>,
): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof CliError) || error.exit !== exits.notFound || error.hint) throw error;
    // An unknown pool, project or host gets no hint about backups.
    if (!/^(instance|backup) /.test(error.message)) throw error;
    const hint = await suggestion(where, backup).catch(() => undefined);
    throw hint === undefined ? error : new CliError(error.exit, error.message, { hint, cause: error });
  }
}

async function suggestion(where: NamedInstance, backup: string | undefined): Promise<string | undefined> {
  const all = await listBackups({ ...where, instance: '' });
  const own = all.filter(({ instance }) => instance === where.instance);
  if (backup !== undefined && own.length > 0) {
    const day = /^(?:backup_)?(\d{4}-\d{2}-\d{2})/.exec(backup)?.[1];
    const ofDay = own.filter(({ created }) => day !== undefined && created.startsWith(day)).map(({ name }) => name);
    if (ofDay.length > 0) return `backups of that day (UTC): ${ofDay.join(', ')}`;
    const near = nearest(backup, ['latest', ...own.map(({ name }) => name)]);
    return near && day === undefined
      ? `did you mean ${near}?`
      : `to see all its backups: lxstow list ${where.instance}`;
  }
  const running = backup === undefined ? await instanceNames(where).catch(() => []) : [];
  const near = nearest(where.instance, new Set([...running, ...all.map(({ instance }) => instance)]));
  return near && near !== where.instance ? `did you mean ${near}?` : undefined;
}

/** The instance of an operation; undefined if it has none. */
export function subjectOf({
  resources,
}: Pick<ShownOperation, 'resources'>): { instance: string; project: string } | undefined {
  const path = resources?.instances?.[0];
  if (path === undefined) return undefined;
  const { pathname, searchParams } = new URL(path, 'https://lxd');
  return { instance: pathname.split('/').at(-1) ?? '', project: searchParams.get('project') ?? 'default' };
}

export async function instanceNames({ gateway, scope }: NamedInstance): Promise<string[]> {
  const found: { name: string }[] = await gateway.ask('GET', ['instances'], { query: { ...scope, recursion: '1' } });
  return found.map(({ name }) => name);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

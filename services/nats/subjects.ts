/** Subjects: what they name, formatted and parsed. */
import { LxstowError } from '../contract/errors.ts';
import type { Address, JobKind } from '../contract/schemas.ts';

const jobsPrefix = 'lxstow.jobs';
export const deadPrefix = 'lxstow.dead';
export const noticesPrefix = 'lxstow.notices';
const progressPrefix = 'lxstow.progress';

/**
 * Encodes a name as one token of a subject or key: all but letters, digits, `_` and `-` becomes `=` and two hex digits per byte. Names are never
 * empty.
 */
export function encodeToken(name: string): string {
  return name.replaceAll(/[^A-Za-z0-9_-]/gu, (character) =>
    [...Buffer.from(character)].map((byte) => `=${byte.toString(16).toUpperCase().padStart(2, '0')}`).join(''),
  );
}

/** The subject with each name as `encodeToken` spells it. Another spelling names the same, so that NATS's right that denies the name would not hold for it. */
export function respelled(subject: string): string {
  const tokens = subject.split('.').map((token) => encodeToken(decodeToken(token)));
  return tokens.join('.');
}

/** Decodes what `encodeToken` made. */
export function decodeToken(token: string): string {
  if (!token.includes('=')) return token;
  const bytes = token.replaceAll(/=([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return Buffer.from(bytes, 'latin1').toString();
}

/** Separates the instance that a restore creates from the one whose backup it reads, if they differ. */
const fromWord = 'from';
/** Last word of a subject: the restore may contain what LXD refuses in restricted projects. */
const unrestrictedWord = 'unrestricted';

/**
 * `lxstow.jobs.<remote>.<kind>.<project>.<instance>`: all that a job touches, so that NATS can check it against the publisher's rights. A restore from
 * another instance's backup adds `.from.<remote>.<project>.<instance>`; a restore that may contain anything adds `.unrestricted`.
 */
export function jobSubject(
  kind: JobKind,
  address: Address,
  source: Address = address,
  { unrestricted = false } = {},
): string {
  const subject = [jobsPrefix, address.remote, kind, ...nameTokens(address)];
  const isOwn = (['remote', 'project', 'instance'] as const).every((key) => source[key] === address[key]);
  const from = isOwn ? [] : [fromWord, source.remote, ...nameTokens(source)];
  return [...subject, ...from, ...(unrestricted ? [unrestrictedWord] : [])].join('.');
}

function nameTokens({ project, instance }: Address): string[] {
  return [encodeToken(project), encodeToken(instance)];
}

/** The subjects of all jobs of a kind on a remote. */
export function jobFilters(remote: string, kind: JobKind): string[] {
  const own = `${jobsPrefix}.${remote}.${kind}.*.*`;
  if (kind !== 'restore') return [own];
  const restores = [own, `${own}.${fromWord}.*.*.*`];
  return [...restores, ...restores.map((each) => `${each}.${unrestrictedWord}`)];
}

/** The parts of a job's subject; undefined if it is no such subject. The names are not checked. */
export function parseJobSubject(subject: string): JobName | undefined {
  const all = subject.split('.');
  if (all.some((token) => token === '')) return undefined;
  const isUnrestricted = (all.length === 7 || all.length === 11) && all.at(-1) === unrestrictedWord;
  const named = parseJobTokens(isUnrestricted ? all.slice(0, -1) : all);
  if (isUnrestricted && named?.kind !== 'restore') return undefined;
  return named && { ...named, ...(isUnrestricted && { unrestricted: true as const }) };
}

/** What a job's subject names. */
type JobName = Address & { kind: string; source?: Address; unrestricted?: true };

function parseJobTokens(tokens: string[]): JobName | undefined {
  const [, , remote = '', kind = '', project = '', instance = '', word, ...from] = tokens;
  const job = { remote, kind, project: decodeToken(project), instance: decodeToken(instance) };
  if (tokens.length === 6) return job;
  const [sourceRemote = '', sourceProject = '', sourceInstance = ''] = from;
  if (tokens.length !== 10 || kind !== 'restore' || word !== fromWord) return undefined;
  const source = { remote: sourceRemote, project: decodeToken(sourceProject), instance: decodeToken(sourceInstance) };
  return { ...job, source };
}

/** The subject of a job's dead letter: the job's own, below `lxstow.dead`. */
export function deadSubject(subject: string): string {
  return deadPrefix + subject.slice(jobsPrefix.length);
}

/** The job's subject, from that of its dead letter. */
export function buriedSubject(subject: string): string {
  return jobsPrefix + subject.slice(deadPrefix.length);
}

/** Stands for the remote in the subject of a run's notice. No remote has this name. */
export const runsToken = '=runs';

export function noticeSubject(remote: string, operation: string): string {
  return `${noticesPrefix}.${remote}.${operation}`;
}

/** Questions to a remote's workers: request and reply, answered by any one of them. */
export function askSubject(remote: string, question: 'look' | 'inventory'): string {
  return `lxstow.ask.${remote}.${question}`;
}

export function nudgeSubject(remote: string, operation: string): string {
  return `lxstow.nudge.${remote}.${operation}`;
}

/** Where a worker publishes the progress of an operation. */
export function progressSubject(remote: string, operation: string): string {
  return `${progressPrefix}.${remote}.${operation}`;
}

export function parseProgressSubject(subject: string): { remote: string; operation: string } | undefined {
  const [remote, operation, ...rest] = subject.slice(progressPrefix.length + 1).split('.');
  return remote && operation && rest.length === 0 ? { remote, operation } : undefined;
}

/** Where a remote's workers announce released leases to each other. The body is `waitKey` of the lease's key. */
export function freedSubject(remote: string): string {
  return `lxstow.freed.${remote}`;
}

const apiPrefix = 'lxstow.api';
/** Stands for all names in a request's subject. No encoded name equals it. */
const allToken = '=all';
/** What `=all` is parsed to. No remote or project has this name. */
export const all = '*';

/** Fills names into a request's `pattern` (`backups.list.{remote}.{project}`); a missing name becomes a wildcard. */
export function apiSubject(pattern: string, names: Record<string, string> = {}): string {
  const filled = pattern.replaceAll(/{(\w+)}/g, (_, name: string) =>
    names[name] === undefined ? '*' : encodeToken(names[name]),
  );
  return `${apiPrefix}.${filled}`;
}

/** Returns the names that a request's subject has for `pattern`; `all` where it says `=all`. Throws bad-request for a name that `encodeToken` spells otherwise. */
export function parseApiSubject(pattern: string, subject: string): Record<string, string> {
  const tokens = subject.slice(apiPrefix.length + 1).split('.');
  const named = pattern.split('.').flatMap((word, index) => {
    const name = /^{(\w+)}$/.exec(word)?.[1];
    const token = tokens[index] ?? '';
    if (!name) return [];
    if (token === allToken) return [[name, all]];
    if (respelled(token) === token) return [[name, decodeToken(token)]];
    throw new LxstowError('bad-request', `${token} in the subject must be spelled ${respelled(token)}`);
  });
  return Object.fromEntries(named);
}

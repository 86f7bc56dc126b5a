/** Keys of the buckets' entries: what they name, formatted and parsed. */
import type { Address } from '../contract/schemas.ts';
import { decodeToken, encodeToken } from './subjects.ts';

/** Key of the lease on an instance: one backup or restore of it at a time. */
export function instanceLeaseKey({ remote, project, instance }: Address): string {
  return [remote, encodeToken(project), encodeToken(instance)].join('.');
}

/** Key under which a backup's name is reserved, from the request to the end of its operation. */
export function reservationKey(address: Address, backup: string): string {
  return `${instanceLeaseKey(address)}.${encodeToken(backup)}`;
}

/** Filter for the keys of all reserved names of an instance. */
export function reservationKeys(address: Address): string {
  return `${instanceLeaseKey(address)}.*`;
}

/** A claim with this holder precedes a deletion of the backup; all other holders read it. */
export const removal = 'delete';

/** Key of a reader's or remover's claim on a backup. With `holder` = `*`: a filter for all of them. */
export function claimKey(address: Address, backup: string, holder: string): string {
  return `${reservationKey(address, backup)}.${holder}`;
}

/** Second token in the keys of permits. No encoded project equals one: in a name, two hex digits follow `=`. */
const permitWords = { remote: '=transfers', pool: '=pool', returning: '=returning' };
const awayWord = '=away';

/** Key prefix of the permits to transfer from or to a remote, or one of its storage pools: each transfer holds one lease `<prefix>.<number>`. */
export function transferPermits(remote: string, pool?: string): string {
  return pool === undefined ? `${remote}.${permitWords.remote}` : `${remote}.${permitWords.pool}.${encodeToken(pool)}`;
}

/**
 * Key of an outage's record (schemas/outage.json): of S3 for a remote, or of LXD for one worker. With `*` as remote, and as worker of `lxd`: a filter
 * for all.
 */
export function outageKey(remote: string, dependency: 's3' | 'lxd', worker?: string): string {
  const key = `${remote}.${awayWord}.${dependency}`;
  return worker === undefined ? key : `${key}.${worker === '*' ? worker : encodeToken(worker)}`;
}

/**
 * Key prefix of the permits to use a dependency that has just come back: leases `<prefix>.<number>`. During the outage, jobs wait for this prefix.
 */
export function returningPermits(remote: string, dependency: 's3'): string {
  return `${remote}.${permitWords.returning}.${dependency}`;
}

/** What a job waits for if it cannot get this lease: any permit with the same prefix, or the instance's lease itself. */
export function waitKey(leaseKey: string): string {
  return leaseKind(leaseKey) === 'instance' ? leaseKey : leaseKey.slice(0, leaseKey.lastIndexOf('.'));
}

/** What a lease is for: an instance, or a permit of a pool, of a remote, or of a dependency that comes back (or its outage record). */
export function leaseKind(leaseKey: string): 'instance' | 'pool' | 'remote' | 'dependency' {
  const word = leaseKey.split('.')[1];
  if (word === permitWords.returning || word === awayWord) return 'dependency';
  return word === permitWords.pool ? 'pool' : word === permitWords.remote ? 'remote' : 'instance';
}

/** Key of the lease on feeding runs to the queue: one gateway feeds all runs. */
export const feederLeaseKey = 'feeder.runs';

/** Key of the lease on schedules: one gateway makes their runs. */
export const schedulerLeaseKey = 'scheduler.runs';

/** Key of the janitor's lease on a remote. It has two tokens, like the feeder's; all others have at least three. */
export function janitorLeaseKey(remote: string): string {
  return `janitor.${remote}`;
}

/** Parses a key of the leases' bucket; undefined for permits, outages, the janitor's lease, and keys that we never write. */
export function parseLeaseKey(
  key: string,
): (Address & { kind: 'lease' | 'reservation' | 'claim'; backup?: string; holder?: string }) | undefined {
  const [remote, project, instance, backup, holder, ...rest] = key.split('.');
  if (!remote || !project || !instance || rest.length > 0 || leaseKind(key) !== 'instance') return undefined;
  const address = { remote, project: decodeToken(project), instance: decodeToken(instance) };
  if (backup === undefined) return { kind: 'lease', ...address };
  if (holder === undefined) return { kind: 'reservation', ...address, backup: decodeToken(backup) };
  return { kind: 'claim', ...address, backup: decodeToken(backup), holder };
}

/** Key of an instance's record. */
export const instanceKey = instanceLeaseKey;

/** Key of a host's inventory note. No project has this name. */
export function inventoryKey(remote: string): string {
  return `${remote}.=inventory`;
}

/** The instance whose record has this key; undefined for other keys of the bucket. */
export function parseInstanceKey(key: string): Address | undefined {
  const [remote, project, instance, ...rest] = key.split('.');
  if (!remote || !project || !instance || rest.length > 0) return undefined;
  return { remote, project: decodeToken(project), instance: decodeToken(instance) };
}

export function operationKey(remote: string, id: string): string {
  return `${remote}.${id}`;
}

/** Key of a run's head; filter for all: `*`. */
export function runHeadKey(run: string): string {
  return `${run}.head`;
}

/** Key of a chunk of a run's children; filter for all of a plan's: `*`. */
export function runPlanKey(run: string, plan: string, chunk: number | '*'): string {
  return `${run}.plan.${plan}.${chunk === '*' ? chunk : String(chunk).padStart(3, '0')}`;
}

/** Key of a trusted client's certificate. */
export function certificateKey(fingerprint: string): string {
  return `certificate.${fingerprint}`;
}

/** Key of a token; `id` or the hash of its secret may be `*`. */
export function tokenKey(id: string, secretHash: string): string {
  return `token.${id}.${secretHash}`;
}

/** Key under which a gateway announces its address. */
export function gatewayKey(fingerprint: string, address: string): string {
  return `gateway.${fingerprint}.${encodeToken(address)}`;
}

export const gatewayKeys = 'gateway.*.*';

/** The fingerprint in a certificate's key; undefined for other keys. */
export function parseCertificateKey(key: string): string | undefined {
  return /^certificate\.([0-9a-f]{64})$/.exec(key)?.[1];
}

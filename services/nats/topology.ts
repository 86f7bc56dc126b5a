/** All names that lxstow uses in NATS, and `lxstow setup`, which creates what they name. */
import { isDeepStrictEqual } from 'node:util';
import {
  AckPolicy,
  type ConsumerConfig,
  DeliverPolicy,
  DiscardPolicy,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { LxstowError } from '../contract/errors.ts';
import type { Address, Config, JobKind } from '../contract/schemas.ts';
import { apiCode, type Nats, natsFailure } from './connection.ts';

export const jobsStream = 'LXSTOW_JOBS';
export const deadLetterStream = 'LXSTOW_DEAD';
/** Notices to be delivered: one message per endpoint. */
export const noticesStream = 'LXSTOW_NOTICES';
export const operationsBucket = 'lxstow_operations';
export const leasesBucket = 'lxstow_leases';
/** What running backups have stored. */
export const checkpointsBucket = 'lxstow_checkpoints';
/** What is known of each instance: seen, last good backup, last outcome (schemas/instance-record.json). */
export const instancesBucket = 'lxstow_instances';
/** Runs: what each is, and its children. */
export const runsBucket = 'lxstow_runs';
/** Schedules: what people wrote, and the last time each was due. */
export const schedulesBucket = 'lxstow_schedules';
/** Trusted certificates, tokens, and gateways' addresses. */
export const trustBucket = 'lxstow_trust';

/**
 * A remote's jobs are in two lanes, each with a consumer. A deletion takes a moment and its client waits for it, so it must not queue behind
 * transfers that take hours.
 */
export const lanes = { transfer: ['backup', 'restore'], quick: ['delete', 'prune'] } as const satisfies Record<
  string,
  JobKind[]
>;
export type Lane = keyof typeof lanes;

/** Whether jobs of this kind only delete backups: they take no lease on the instance, ask no LXD, and cannot be cancelled. */
export function isQuick(kind: string): kind is (typeof lanes.quick)[number] {
  return (lanes.quick as readonly string[]).includes(kind);
}

export function consumerName(remote: string, lane: Lane): string {
  return `${remote}_${lane}`;
}

/** Gateways share these consumers: one gateway gets each change of an operation or a run, and one gets each notice. */
export const changesConsumer = 'notices';
export const noticesConsumer = 'deliver';

/** NATS redelivers a message after this time without `working()`, so a worker calls it more often. */
export const ackWaitMs = 10_000;
/** How long the marker of a removed or expired key stays. */
const markerTtlMs = 60_000;
const duplicateWindowMs = 120_000;
/** Longer than an endpoint may take to answer. */
const noticeAckWaitMs = 45_000;
/** The gateway gives up a delivery before that. */
const noticesKeptMs = 7 * 24 * 3_600_000;

const jobsPrefix = 'lxstow.jobs';
const deadPrefix = 'lxstow.dead';
const noticesPrefix = 'lxstow.notices';

/**
 * Encodes a name as one token of a subject or key: all but letters, digits, `_` and `-` becomes `=` and two hex digits per byte. Names are never
 * empty.
 */
export function encodeToken(name: string): string {
  return name.replaceAll(/[^A-Za-z0-9_-]/gu, (character) =>
    [...Buffer.from(character)].map((byte) => `=${byte.toString(16).toUpperCase().padStart(2, '0')}`).join(''),
  );
}

/** Decodes what `encodeToken` made. */
export function decodeToken(token: string): string {
  if (!token.includes('=')) return token;
  const bytes = token.replaceAll(/=([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return Buffer.from(bytes, 'latin1').toString();
}

/** Separates the instance that a restore creates from the one whose backup it reads, if they differ. */
const fromWord = 'from';
/** Behind all of it: the restore may bring what LXD's restricted projects refuse. */
const unrestrictedWord = 'unrestricted';

/**
 * `lxstow.jobs.<remote>.<kind>.<project>.<instance>`: all that a job touches, so that NATS can hold it against the publisher's rights. A restore from
 * another instance's backup has `.from.<remote>.<project>.<instance>` behind it, one that may bring anything `.unrestricted`.
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

/** The parts of a job's subject; undefined when it is none. The names are not checked. */
export function parseJobSubject(subject: string): JobName | undefined {
  const all = subject.split('.');
  if (all.some((token) => token === '')) return undefined;
  const isUnrestricted = (all.length === 7 || all.length === 11) && all.at(-1) === unrestrictedWord;
  const named = parseJobTokens(isUnrestricted ? all.slice(0, -1) : all);
  if (isUnrestricted && named?.kind !== 'restore') return undefined;
  return named && { ...named, ...(isUnrestricted && { unrestricted: true as const }) };
}

/** What a job's subject names. */
export type JobName = Address & { kind: string; source?: Address; unrestricted?: true };

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

/** In the subject of a run's notice, in the place of a remote: none is called so. */
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

/** Where a remote's workers announce released leases to each other. The body is `waitedFor` of the lease's key. */
export function freedSubject(remote: string): string {
  return `lxstow.freed.${remote}`;
}

const apiPrefix = 'lxstow.api';
/** In a request's subject in the place of a name: all of them. No name is encoded so. */
const allToken = '=all';
/** What `=all` stands for once it is read: no name of a remote or project. */
export const all = '*';

/** Fills names into a request's `pattern` (`backups.list.{remote}.{project}`); a missing name becomes a wildcard. */
export function apiSubject(pattern: string, names: Record<string, string> = {}): string {
  const filled = pattern.replaceAll(/{(\w+)}/g, (_, name: string) =>
    names[name] === undefined ? '*' : encodeToken(names[name]),
  );
  return `${apiPrefix}.${filled}`;
}

/** Returns the names that a request's subject has for `pattern`; `all` where it says `=all`. */
export function parseApiSubject(pattern: string, subject: string): Record<string, string> {
  const tokens = subject.slice(apiPrefix.length + 1).split('.');
  const named = pattern.split('.').flatMap((word, index) => {
    const name = /^{(\w+)}$/.exec(word)?.[1];
    const token = tokens[index] ?? '';
    return name ? [[name, token === allToken ? all : decodeToken(token)]] : [];
  });
  return Object.fromEntries(named);
}

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
export function waitedFor(leaseKey: string): string {
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

/** Key of what is known of an instance. */
export const instanceKey = instanceLeaseKey;

/** Key under which a remote's workers say when they looked which instances there are. No project is called so. */
export function inventoryKey(remote: string): string {
  return `${remote}.=inventory`;
}

/** The instance whose record this key holds; undefined for other keys of the bucket. */
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

const nanos = (ms: number) => ms * 1_000_000;

/** The streams that `setUp` creates, except those behind buckets. */
function streams({ nats, remotes }: Config): { name: string; settings: Partial<StreamConfig> }[] {
  const common = { storage: StorageType.File, num_replicas: nats.replicas, allow_direct: true };
  return [
    {
      name: jobsStream,
      settings: {
        ...common,
        // Only subjects that a worker consumes: a job for an unknown remote or of an unknown kind is refused at publish.
        subjects: Object.keys(remotes).flatMap((remote) =>
          Object.values(lanes)
            .flat()
            .flatMap((kind) => jobFilters(remote, kind)),
        ),
        retention: RetentionPolicy.Workqueue,
        discard: DiscardPolicy.New,
        max_msgs: nats.maxQueuedJobs,
        max_msg_size: 256 * 1024,
        duplicate_window: nanos(duplicateWindowMs),
      },
    },
    {
      name: deadLetterStream,
      settings: { ...common, subjects: [`${deadPrefix}.>`], retention: RetentionPolicy.Limits },
    },
    {
      name: noticesStream,
      settings: {
        ...common,
        subjects: [`${noticesPrefix}.*.*`],
        retention: RetentionPolicy.Workqueue,
        // When it is full, operations' changes wait in their own stream and become notices later.
        discard: DiscardPolicy.New,
        max_msgs: nats.maxQueuedJobs,
        max_age: nanos(noticesKeptMs),
        duplicate_window: nanos(duplicateWindowMs),
      },
    },
  ];
}

const buckets = [
  operationsBucket,
  leasesBucket,
  checkpointsBucket,
  instancesBucket,
  runsBucket,
  schedulesBucket,
  trustBucket,
];
/** Workers have no use for them, and may not read them. */
const gatewaysBuckets = [runsBucket, schedulesBucket, trustBucket];

/** Settings of the stream behind a bucket that already exists. */
function bucketSettings({ nats }: Config): Partial<StreamConfig> {
  return {
    num_replicas: nats.replicas,
    allow_msg_ttl: true,
    subject_delete_marker_ttl: nanos(markerTtlMs),
    allow_direct: true,
  };
}

function consumers(remote: string): { name: string; settings: Partial<ConsumerConfig> }[] {
  return Object.entries(lanes).map(([lane, kinds]) => ({
    name: consumerName(remote, lane as Lane),
    settings: {
      filter_subjects: kinds.flatMap((kind) => jobFilters(remote, kind)),
      ack_policy: AckPolicy.Explicit,
      ack_wait: nanos(ackWaitMs),
      // The operation counts attempts: a job that waits for its instance is NAKed any number of times.
      max_deliver: -1,
      max_ack_pending: -1,
    },
  }));
}

const noticeConsumers: { stream: string; name: string; settings: Partial<ConsumerConfig> }[] = [
  {
    stream: `KV_${operationsBucket}`,
    name: changesConsumer,
    // Operations that ended before this consumer existed get no notice.
    settings: {
      deliver_policy: DeliverPolicy.New,
      ack_policy: AckPolicy.Explicit,
      ack_wait: nanos(ackWaitMs),
      max_deliver: -1,
    },
  },
  {
    stream: `KV_${runsBucket}`,
    name: changesConsumer,
    settings: {
      filter_subject: `$KV.${runsBucket}.${runHeadKey('*')}`,
      deliver_policy: DeliverPolicy.New,
      ack_policy: AckPolicy.Explicit,
      ack_wait: nanos(ackWaitMs),
      max_deliver: -1,
    },
  },
  {
    stream: noticesStream,
    name: noticesConsumer,
    settings: {
      ack_policy: AckPolicy.Explicit,
      ack_wait: nanos(noticeAckWaitMs),
      max_deliver: -1,
      // Any number of notices may wait for an endpoint that is away.
      max_ack_pending: -1,
    },
  },
];

/** Creates or updates streams, buckets and consumers. Safe to repeat. Throws nats-unfit, naming what NATS refuses. */
export async function setUp(nats: Nats, config: Config): Promise<void> {
  const make = async (what: string, run: () => Promise<unknown>) => {
    try {
      await run();
    } catch (error) {
      const code = apiCode(error);
      if (code === undefined) throw natsFailure(error, `setting up ${what}`);
      throw new LxstowError('nats-unfit', `setting up ${what}: NATS refuses: ${(error as Error).message}`, {
        cause: error,
      });
    }
  };
  for (const { name, settings } of streams(config)) {
    await make(`stream ${name}`, async () => {
      try {
        await nats.jsm.streams.add({ name, ...settings } as Parameters<typeof nats.jsm.streams.add>[0]);
      } catch (error) {
        if (apiCode(error) !== streamNameInUse) throw error;
        await nats.jsm.streams.update(name, settings);
      }
    });
  }
  for (const bucket of buckets) {
    await make(`bucket ${bucket}`, async () => {
      await new Kvm(nats.js).create(bucket, {
        history: 1,
        storage: StorageType.File,
        replicas: config.nats.replicas,
        markerTTL: markerTtlMs,
        allow_direct: true,
      });
      // create() does not change an existing bucket.
      await nats.jsm.streams.update(`KV_${bucket}`, bucketSettings(config));
    });
  }
  for (const remote of Object.keys(config.remotes)) {
    for (const { name, settings } of consumers(remote))
      await make(`consumer ${name}`, () =>
        nats.jsm.consumers.add(jobsStream, { durable_name: name, ...settings } as ConsumerConfig),
      );
  }
  for (const { stream, name, settings } of noticeConsumers)
    await make(`consumer ${name} of ${stream}`, () =>
      nats.jsm.consumers.add(stream, { durable_name: name, ...settings } as ConsumerConfig),
    );
}

const streamNameInUse = 10058;

/** Compares what a gateway, or a remote's worker, needs with what `setUp` creates. Throws nats-unavailable, nats-unfit. */
export async function compareSetUp(
  nats: Nats,
  config: Config,
  role: 'gateway' | { remote: string },
): Promise<{ missing: string[]; different: string[] }> {
  const [missing, different]: [string[], string[]] = [[], []];
  const compare = async <C extends object>(what: string, wanted: Partial<C>, ask: () => Promise<{ config: C }>) => {
    try {
      const found = (await ask()).config;
      for (const key of Object.keys(wanted) as (keyof C & string)[]) {
        const [is, should] = [found[key], wanted[key]];
        // Other configurations may have more remotes.
        const fits =
          key === 'subjects'
            ? (should as string[]).every((subject) => (is as string[]).includes(subject))
            : isDeepStrictEqual(is, should);
        if (!fits) different.push(`${what}: ${key} is ${JSON.stringify(is)}`);
      }
    } catch (error) {
      const code = apiCode(error);
      if (code !== noSuchStream && code !== noSuchConsumer) throw natsFailure(error, `looking at ${what}`);
      missing.push(what);
    }
  };
  const remotes = role === 'gateway' ? Object.keys(config.remotes) : [role.remote];
  // Only gateways use notices, and workers may not see who is trusted.
  for (const { name, settings } of streams(config).filter((each) => role === 'gateway' || each.name !== noticesStream))
    await compare(`stream ${name}`, settings, () => nats.jsm.streams.info(name));
  for (const bucket of buckets.filter((name) => role === 'gateway' || !gatewaysBuckets.includes(name)))
    await compare(`bucket ${bucket}`, bucketSettings(config), () => nats.jsm.streams.info(`KV_${bucket}`));
  for (const remote of remotes) {
    for (const { name, settings } of consumers(remote))
      await compare(`consumer ${name}`, settings, () => nats.jsm.consumers.info(jobsStream, name));
  }
  for (const { stream, name, settings } of role === 'gateway' ? noticeConsumers : [])
    await compare(`consumer ${name} of ${stream}`, settings, () => nats.jsm.consumers.info(stream, name));
  return { missing, different };
}

const noSuchStream = 10059;
const noSuchConsumer = 10014;

/** Throws nats-unfit, with what to do, if something that `setUp` creates is missing. */
export async function verifySetUp(nats: Nats, remote?: string): Promise<void> {
  try {
    for (const stream of [
      jobsStream,
      deadLetterStream,
      `KV_${operationsBucket}`,
      `KV_${leasesBucket}`,
      `KV_${checkpointsBucket}`,
      `KV_${instancesBucket}`,
    ])
      await nats.jsm.streams.info(stream);
    for (const lane of remote ? Object.keys(lanes) : [])
      await nats.jsm.consumers.info(jobsStream, consumerName(remote as string, lane as Lane));
  } catch (error) {
    throw natsFailure(error, 'looking for our streams and consumers');
  }
}

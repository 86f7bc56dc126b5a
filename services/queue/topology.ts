/** The names of everything on NATS, and `lxstow setup`, which makes them. */
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
import type { Address, Config, JobKind } from '../contract.ts';
import { LxstowError } from '../errors.ts';
import { apiCode, type Nats, natsFailure } from './connection.ts';

export const jobsStream = 'LXSTOW_JOBS';
export const deadLetterStream = 'LXSTOW_DEAD';
/** What is to be told to endpoints: a message for each of them. */
export const noticesStream = 'LXSTOW_NOTICES';
export const operationsBucket = 'lxstow_operations';
export const leasesBucket = 'lxstow_leases';
/** What running backups have sent so far. */
export const checkpointsBucket = 'lxstow_checkpoints';
/** Runs: what each is, and its children. */
export const runsBucket = 'lxstow_runs';
/** Who is trusted, tokens, and where gateways are. */
export const trustBucket = 'lxstow_trust';

/**
 * A remote's jobs come in two lanes, each with a consumer: a deletion takes a moment and its client waits for it, so it does not
 * queue behind transfers that take hours.
 */
export const lanes = { transfer: ['backup', 'restore'], quick: ['delete'] } as const satisfies Record<
  string,
  JobKind[]
>;
export type Lane = keyof typeof lanes;

export function consumerName(remote: string, lane: Lane): string {
  return `${remote}_${lane}`;
}

/** Gateways share them: who takes the next change of an operation or of a run, and who the next notice. */
export const changesConsumer = 'notices';
export const noticesConsumer = 'deliver';

/** A message that nobody works on for so long goes to another worker; so a worker says `working()` more often than this. */
export const ackWaitMs = 10_000;
/** How long a removed or expired key leaves its marker behind. */
const markerTtlMs = 60_000;
const duplicateWindowMs = 120_000;
/** Longer than an endpoint may take to answer. */
const noticeAckWaitMs = 45_000;
/** Whoever delivers gives up before. */
const noticesKeptMs = 7 * 24 * 3_600_000;

const jobsPrefix = 'lxstow.jobs';
const deadPrefix = 'lxstow.dead';
const noticesPrefix = 'lxstow.notices';

/**
 * A name as one token of a subject or key: all but letters, digits, `_` and `-` becomes `=` and two hex digits a byte. Empty names
 * do not occur.
 */
export function encodeToken(name: string): string {
  return name.replaceAll(/[^A-Za-z0-9_-]/gu, (character) =>
    [...Buffer.from(character)].map((byte) => `=${byte.toString(16).toUpperCase().padStart(2, '0')}`).join(''),
  );
}

/** The name again. */
export function decodeToken(token: string): string {
  const bytes = token.replaceAll(/=([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return Buffer.from(bytes, 'latin1').toString();
}

/** Between what a restore makes and whose backup it reads, where that is another instance's. */
const fromWord = 'from';

/**
 * `lxstow.jobs.<remote>.<kind>.<project>.<instance>`: all that a job touches, so that NATS can hold it against the publisher's rights. A restore from
 * another instance's backup has `.from.<remote>.<project>.<instance>` behind it.
 */
export function jobSubject(kind: JobKind, address: Address, source: Address = address): string {
  const subject = [jobsPrefix, address.remote, kind, ...nameTokens(address)];
  const isOwn = (['remote', 'project', 'instance'] as const).every((key) => source[key] === address[key]);
  return [...subject, ...(isOwn ? [] : [fromWord, source.remote, ...nameTokens(source)])].join('.');
}

function nameTokens({ project, instance }: Address): string[] {
  return [encodeToken(project), encodeToken(instance)];
}

/** The subjects of all jobs of a kind on a remote. */
export function jobFilters(remote: string, kind: JobKind): string[] {
  const own = `${jobsPrefix}.${remote}.${kind}.*.*`;
  return kind === 'restore' ? [own, `${own}.${fromWord}.*.*.*`] : [own];
}

/** The parts of a job's subject; undefined when it is none. The names are not checked. */
export function parseJobSubject(subject: string): (Address & { kind: string; source?: Address }) | undefined {
  const tokens = subject.split('.');
  if (tokens.some((token) => token === '')) return undefined;
  const [, , remote = '', kind = '', project = '', instance = '', word, ...from] = tokens;
  const job = { remote, kind, project: decodeToken(project), instance: decodeToken(instance) };
  if (tokens.length === 6) return job;
  const [sourceRemote = '', sourceProject = '', sourceInstance = ''] = from;
  if (tokens.length !== 10 || kind !== 'restore' || word !== fromWord) return undefined;
  const source = { remote: sourceRemote, project: decodeToken(sourceProject), instance: decodeToken(sourceInstance) };
  return { ...job, source };
}

/** Where a message ends that no worker can do anything with: its own subject, below `lxstow.dead`. */
export function deadSubject(subject: string): string {
  return deadPrefix + subject.slice(jobsPrefix.length);
}

/** The subject that a dead letter's message had. */
export function buriedSubject(subject: string): string {
  return jobsPrefix + subject.slice(deadPrefix.length);
}

/** In the subject of a run's notice, in the place of a remote: none is called so. */
export const runsToken = '=runs';

export function noticeSubject(remote: string, operation: string): string {
  return `${noticesPrefix}.${remote}.${operation}`;
}

/** Questions to whichever worker of a remote is free to answer, by request and reply. */
export function askSubject(remote: string, question: 'look' | 'inventory'): string {
  return `lxstow.ask.${remote}.${question}`;
}

export function nudgeSubject(remote: string, operation: string): string {
  return `lxstow.nudge.${remote}.${operation}`;
}

/** Where a remote's workers tell each other what somebody may be waiting for: the body is what `waitedFor` makes of a lease that was given back. */
export function freedSubject(remote: string): string {
  return `lxstow.freed.${remote}`;
}

const apiPrefix = 'lxstow.api';
/** In a request's subject in the place of a name: all of them. No name is encoded so. */
const allToken = '=all';
/** What `=all` stands for once it is read: no name of a remote or project. */
export const all = '*';

/** The subject of a request with the names of `pattern` (`backups.list.{remote}.{project}`) put in; those not given are wildcards. */
export function apiSubject(pattern: string, names: Record<string, string> = {}): string {
  const filled = pattern.replaceAll(/{(\w+)}/g, (_, name: string) =>
    names[name] === undefined ? '*' : encodeToken(names[name]),
  );
  return `${apiPrefix}.${filled}`;
}

/** The names in a request's subject; `all` where it says `=all`. */
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

/** Filter for the keys of all names that are reserved of an instance. */
export function reservationKeys(address: Address): string {
  return `${instanceLeaseKey(address)}.*`;
}

/** Who claims a backup under this name is about to delete it; all others read it. */
export const removal = 'delete';

/** Key of a reader's or remover's claim on a backup. Filter for all of them: `holder` = `*`. */
export function claimKey(address: Address, backup: string, holder: string): string {
  return `${reservationKey(address, backup)}.${holder}`;
}

/** Behind a remote's name in the keys of permits. No project is called so: `=` is followed by two hex digits in a name. */
const permitWords = { remote: '=transfers', pool: '=pool', returning: '=returning' };
const awayWord = '=away';

/** The permits to transfer from or to a remote, or one of its storage pools: leases `<this>.<number>`, of which each transfer holds one. */
export function transferPermits(remote: string, pool?: string): string {
  return pool === undefined ? `${remote}.${permitWords.remote}` : `${remote}.${permitWords.pool}.${encodeToken(pool)}`;
}

/** Key of the record that S3 is away for a remote, or its own LXD for one of its workers (schemas/outage.json). Filter for all: `*`, `s3` or `lxd.*`. */
export function outageKey(remote: string, dependency: 's3' | 'lxd', worker?: string): string {
  const key = `${remote}.${awayWord}.${dependency}`;
  return worker === undefined ? key : `${key}.${worker === '*' ? worker : encodeToken(worker)}`;
}

/** The permits to work with a dependency that has just come back: leases `<this>.<number>`. What waits for it while it is away waits under this name. */
export function returningPermits(remote: string, dependency: 's3'): string {
  return `${remote}.${permitWords.returning}.${dependency}`;
}

/** What a job waits for that does not get this lease: any of the permits that are alike, or the lease itself. */
export function waitedFor(leaseKey: string): string {
  return leaseKind(leaseKey) === 'instance' ? leaseKey : leaseKey.slice(0, leaseKey.lastIndexOf('.'));
}

/** Whether a lease is on an instance, or a permit of a pool, of a remote, or of a dependency that comes back (or its record). */
export function leaseKind(leaseKey: string): 'instance' | 'pool' | 'remote' | 'dependency' {
  const word = leaseKey.split('.')[1];
  if (word === permitWords.returning || word === awayWord) return 'dependency';
  return word === permitWords.pool ? 'pool' : word === permitWords.remote ? 'remote' : 'instance';
}

/** Key of the lease on feeding runs to the queue: one gateway does it for all of them. */
export const feederLeaseKey = 'feeder.runs';

/** Key of the lease on tidying a remote up. It has two tokens, like the feeder's; all others have at least three. */
export function janitorLeaseKey(remote: string): string {
  return `janitor.${remote}`;
}

/** What a key of the leases' bucket is about; undefined for permits, the janitor's own, and for what we never write. */
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

/** Key under which a gateway says where it is. */
export function gatewayKey(fingerprint: string, address: string): string {
  return `gateway.${fingerprint}.${encodeToken(address)}`;
}

export const gatewayKeys = 'gateway.*.*';

/** The fingerprint of a certificate's key; undefined for other keys. */
export function parseCertificateKey(key: string): string | undefined {
  return /^certificate\.([0-9a-f]{64})$/.exec(key)?.[1];
}

const nanos = (ms: number) => ms * 1_000_000;

/** The streams as `setUp` makes them, but those behind buckets. */
function streams({ nats, remotes }: Config): { name: string; settings: Partial<StreamConfig> }[] {
  const common = { storage: StorageType.File, num_replicas: nats.replicas, allow_direct: true };
  return [
    {
      name: jobsStream,
      settings: {
        ...common,
        // Only what somebody takes: a job for a remote or of a kind that does not exist is refused when it is published.
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
        // Over this the ends stay where they are, and are told later.
        discard: DiscardPolicy.New,
        max_msgs: nats.maxQueuedJobs,
        max_age: nanos(noticesKeptMs),
        duplicate_window: nanos(duplicateWindowMs),
      },
    },
  ];
}

const buckets = [operationsBucket, leasesBucket, checkpointsBucket, runsBucket, trustBucket];
/** Of no use to workers, who may not look at them. */
const gatewaysBuckets = [runsBucket, trustBucket];

/** What is set on the stream behind a bucket when it is there already. */
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
      // Attempts are counted in the operation: a job that waits for its instance is handed back any number of times.
      max_deliver: -1,
      max_ack_pending: -1,
    },
  }));
}

const noticeConsumers: { stream: string; name: string; settings: Partial<ConsumerConfig> }[] = [
  {
    stream: `KV_${operationsBucket}`,
    name: changesConsumer,
    // What ended before there was anybody to tell it is not told.
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
      // Any number may wait for an endpoint that is away.
      max_ack_pending: -1,
    },
  },
];

/** Makes streams, buckets and consumers, or brings what is there up to date. Safe to repeat. Throws nats-unfit, naming what NATS refuses. */
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
      // create() leaves a bucket that is there as it is.
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

/** What is missing, or is not as `setUp` would make it, of what a gateway needs, or the worker of a remote. Throws nats-unavailable, nats-unfit. */
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
        // Others may have more remotes.
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
  // Notices are the gateways', and who is trusted is not for workers to see.
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

/** Throws nats-unfit, and says what to do, when what `setUp` makes is not there. */
export async function verifySetUp(nats: Nats, remote?: string): Promise<void> {
  try {
    for (const stream of [
      jobsStream,
      deadLetterStream,
      `KV_${operationsBucket}`,
      `KV_${leasesBucket}`,
      `KV_${checkpointsBucket}`,
    ])
      await nats.jsm.streams.info(stream);
    for (const lane of remote ? Object.keys(lanes) : [])
      await nats.jsm.consumers.info(jobsStream, consumerName(remote as string, lane as Lane));
  } catch (error) {
    throw natsFailure(error, 'looking for our streams and consumers');
  }
}

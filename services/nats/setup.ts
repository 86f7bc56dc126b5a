/** `lxstow setup`: creates the streams, buckets and consumers, and compares them with what is there. */
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
import type { Config } from '../contract/schemas.ts';
import { runHeadKey } from './bucketKeys.ts';
import type { Nats } from './connection.ts';
import { apiCode, natsFailure } from './failures.ts';
import {
  ackWaitMs,
  changesConsumer,
  checkpointsBucket,
  consumerName,
  deadLetterStream,
  instancesBucket,
  jobsStream,
  type Lane,
  lanes,
  leasesBucket,
  noticesConsumer,
  noticesStream,
  operationsBucket,
  runsBucket,
  schedulesBucket,
  trustBucket,
} from './streams.ts';
import { deadPrefix, jobFilters, noticesPrefix } from './subjects.ts';

/** How long the marker of a removed or expired key stays. */
const markerTtlMs = 60_000;
const duplicateWindowMs = 120_000;
/** Longer than a webhook may take to answer. */
const noticeAckWaitMs = 45_000;
/** The gateway gives up a delivery before that. */
const noticesKeptMs = 7 * 24 * 3_600_000;

const nanos = (ms: number) => ms * 1_000_000;

/** The streams that `setUp` creates, except the streams of buckets. */
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
/** Buckets that workers do not need, and may not read. */
const gatewaysBuckets = [runsBucket, schedulesBucket, trustBucket];

/** Settings of the stream of a bucket that already exists. */
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
      // Any number of notices may wait for a webhook that is away.
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
  await nats.ask('looking for our streams and consumers', async () => {
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
  });
}

/** Queue depth, read from NATS itself. */
import type { ConsumerInfo } from '@nats-io/jetstream';
import { plural } from '../contract/amounts.ts';
import type { Nats } from '../nats/connection.ts';
import { violationOf } from '../nats/failures.ts';
import { consumerName, deadLetterStream, jobsStream, type Lane, lanes, noticesStream } from '../nats/streams.ts';
import { jobFilters } from '../nats/subjects.ts';

interface LaneDepth {
  remote: string;
  lane: Lane;
  /** Jobs that no worker has taken yet. */
  waiting: number;
  /** Jobs that were taken and have not ended: running, or waiting for their instance or another attempt. */
  taken: number;
  /** When the oldest waiting job was published. */
  oldest: Date | undefined;
}

/** Returns the depth of each lane of these remotes. Throws nats-unavailable, nats-unfit. */
export function queueDepth(nats: Nats, remotes: string[]): Promise<LaneDepth[]> {
  return nats.ask('looking how full the queue is', async () => {
    const listed = await listConsumers(nats);
    const depths = remotes.flatMap((remote) =>
      (Object.keys(lanes) as Lane[]).map(async (lane) => {
        const name = consumerName(remote, lane);
        const info = listed.get(name) ?? (await nats.jsm.consumers.info(jobsStream, name));
        return laneDepth(nats, remote, lane, info);
      }),
    );
    return Promise.all(depths);
  });
}

/** The consumers by name, 256 a request. A NATS user that may not list them (an older nats.conf) gets none; the consumers are then requested one by one. */
async function listConsumers(nats: Nats): Promise<Map<string, ConsumerInfo>> {
  const found = new Map<string, ConsumerInfo>();
  if (unlisted.has(nats)) return found;
  try {
    for await (const info of nats.jsm.consumers.list(jobsStream)) found.set(info.name, info);
  } catch (error) {
    if (!violationOf(error)) throw error;
    unlisted.add(nats);
  }
  return found;
}

/** Connections whose user may not list consumers: asked again at each scrape, nats-server would log a violation each time. */
const unlisted = new WeakSet<Nats>();

/** Whether any worker is asking for jobs of this lane now. */
export async function isAsked(nats: Nats, remote: string, lane: Lane): Promise<boolean> {
  const name = consumerName(remote, lane);
  return (await nats.ask('looking who asks for jobs', () => nats.jsm.consumers.info(jobsStream, name))).num_waiting > 0;
}

export function countDeadLetters(nats: Nats): Promise<number> {
  return messagesIn(nats, deadLetterStream, 'counting dead letters');
}

/** Says how many dead letters there are, and what to do. */
export function wordsFor(deadLetters: number): string {
  return `${plural(deadLetters, 'dead letter')}; lxstow dead-letters list`;
}

/** How many notices wait to be delivered. */
export function countNotices(nats: Nats): Promise<number> {
  return messagesIn(nats, noticesStream, 'counting notices');
}

async function messagesIn(nats: Nats, stream: string, what: string): Promise<number> {
  return (await nats.ask(what, () => nats.jsm.streams.info(stream))).state.messages;
}

async function laneDepth(
  nats: Nats,
  remote: string,
  lane: Lane,
  { num_pending, num_ack_pending, delivered }: ConsumerInfo,
): Promise<LaneDepth> {
  const times =
    num_pending === 0
      ? []
      : await Promise.all(
          lanes[lane]
            .flatMap((kind) => jobFilters(remote, kind))
            .map((filter) => firstBehind(nats, filter, delivered.stream_seq)),
        );
  const oldest = times.filter((time) => time !== undefined).sort((a, b) => a.getTime() - b.getTime())[0];
  return { remote, lane, waiting: num_pending, taken: num_ack_pending, oldest };
}

/** Returns when the first message after `seq` was published; undefined if a worker took it in between. */
async function firstBehind(nats: Nats, filter: string, seq: number): Promise<Date | undefined> {
  // The server accepts `next_by_subj` together with `seq`; the client's type does not.
  const query = { seq: seq + 1, next_by_subj: filter } as { seq: number };
  return (await nats.jsm.streams.getMessage(jobsStream, query))?.time;
}

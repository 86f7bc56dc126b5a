/** Notices as messages, one per endpoint: the body is what the endpoint gets, the headers name the endpoint. */
import { createHash } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import type { Consumer, JsMsg } from '@nats-io/jetstream';
import { headers } from '@nats-io/transport-node';
import type { Nats } from '../nats/connection.ts';
import { natsFailure } from '../nats/failures.ts';
import { headersOf } from '../nats/messageHeaders.ts';
import { pull } from '../nats/pull.ts';
import { noticesStream } from '../nats/streams.ts';
import { noticeSubject } from '../nats/subjects.ts';
import type { Log } from '../telemetry/logger.ts';
import type { Ping } from './ping.ts';

export interface QueuedNotice {
  /** Receivers recognize a repeat by it. */
  id: string;
  remote: string;
  operation: string;
  endpoint: string;
  /** Where the webhook was named. */
  namedBy: 'configuration' | 'request';
  /** The JSON as it is sent and signed; for a ping, its text. */
  body: string;
  /** For a ping: how it is sent. */
  ping?: Pick<Ping, 'what' | 'method'>;
}

const idHeader = 'Lxstow-Notice';
const endpointHeader = 'Lxstow-Endpoint';
const namedByHeader = 'Lxstow-Endpoint-Named-By';
/** `POST start` */
const pingHeader = 'Lxstow-Ping';

const pullMs = 5000;
const pauseMs = 1000;

/** Queues the notice; it is durable when this resolves. A repeat within two minutes is dropped as a duplicate. */
export async function queueNotice(nats: Nats, notice: QueuedNotice): Promise<void> {
  const { id, remote, operation, endpoint, namedBy, body, ping } = notice;
  const carried = headers();
  carried.set(idHeader, id);
  carried.set(endpointHeader, endpoint);
  carried.set(namedByHeader, namedBy);
  if (ping) carried.set(pingHeader, `${ping.method} ${ping.what}`);
  const options = {
    headers: carried,
    msgID: `${id} ${createHash('sha256').update(endpoint).digest('base64url')}`,
    expect: { streamName: noticesStream },
  };
  await nats.ask('queueing a notice', () => nats.js.publish(noticeSubject(remote, operation), body, options));
}

/** Parses the notice in a message; undefined if it is not one of ours. */
export function parseNotice(message: JsMsg): QueuedNotice | undefined {
  const { subject, data } = message;
  const { headers: carried } = headersOf(message);
  const [, , remote, operation] = subject.split('.');
  const [id, endpoint, namedBy] = [idHeader, endpointHeader, namedByHeader].map((name) => carried?.get(name));
  if (!remote || !operation || !id || !endpoint) return undefined;
  if (namedBy !== 'configuration' && namedBy !== 'request') return undefined;
  const [, method, what] = /^(GET|POST) (start|up|down)$/.exec(carried?.get(pingHeader) ?? '') ?? [];
  return {
    ...{ id, remote, operation, endpoint, namedBy, body: Buffer.from(data).toString() },
    ...(method && what && { ping: { method, what } as NonNullable<QueuedNotice['ping']> }),
  };
}

/** Yields the consumer's messages until `stop`, `room()` of them at a time. While NATS is away, it logs that and retries. */
export async function* pulled(
  nats: Parameters<typeof pull>[0],
  consumer: Consumer,
  room: () => Promise<number>,
  stop: AbortSignal,
  log: Log,
): AsyncGenerator<JsMsg> {
  while (!stop.aborted) {
    try {
      yield* pull(nats, consumer, { max_messages: await room(), expires: pullMs }, stop);
    } catch (error) {
      if (stop.aborted) return;
      log.warn('notices wait for NATS', { error: natsFailure(error, 'waiting for notices') });
      await setTimeout(pauseMs, undefined, { ref: false });
    }
  }
}

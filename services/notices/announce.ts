/**
 * From an operation's end to notices on the queue. The end that is written in the operations' bucket is the announcement itself: a consumer
 * reads what is written there, whoever wrote it, and nobody who ends an operation has anything else to do (adr/0022).
 */
import type { Consumer, JsMsg } from '@nats-io/jetstream';
import type { Config, Operation } from '../contract.ts';
import type { Log } from '../logger.ts';
import type { Nats } from '../queue/connection.ts';
import { pulled, type QueuedNotice, queueNotice } from '../queue/notices.ts';
import { endpointIn, noticeId, noticeOf } from './notice.ts';

export interface AnnounceOptions {
  nats: Nats;
  /** Of the changes of operations. */
  consumer: Consumer;
  config: Config['notify'];
  log: Log;
  /** Aborts when no more are to be announced. */
  stop: AbortSignal;
}

const atOnce = 256;
const againMs = 5000;

/** Runs until `stop`. */
export async function announceEnds({ nats, consumer, config, log, stop }: AnnounceOptions): Promise<void> {
  for await (const message of pulled(consumer, async () => atOnce, stop, log)) {
    let notices: QueuedNotice[];
    try {
      notices = noticesIn(message, config);
    } catch (error) {
      log.error('not an operation', { subject: message.subject, error });
      message.term('not an operation');
      continue;
    }
    try {
      for (const notice of notices) await queueNotice(nats, notice);
      message.ack();
    } catch (error) {
      log.warn('an end is not on its way yet', { subject: message.subject, error });
      message.nak(againMs);
    }
  }
}

/** Each endpoint once: one that the configuration has as well is the configuration's. None for what has not ended, or was removed. */
function noticesIn(message: JsMsg, config: Config['notify']): QueuedNotice[] {
  if (message.headers?.has('KV-Operation') || message.headers?.has('Nats-Marker-Reason')) return [];
  const operation = message.json<Operation>();
  const notice = noticeOf(operation);
  if (!notice) return [];
  const { remote, id } = operation;
  const common = { id: noticeId(notice), remote, operation: id, body: JSON.stringify(notice) };
  const usual = config.events.includes(notice.state) ? config.endpoints : [];
  const named = endpointIn(operation);
  return [
    ...usual.map((endpoint) => ({ ...common, endpoint, namedBy: 'configuration' as const })),
    ...(named === undefined || usual.includes(named)
      ? []
      : [{ ...common, endpoint: named, namedBy: 'request' as const }]),
  ];
}

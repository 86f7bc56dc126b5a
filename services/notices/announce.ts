/**
 * Queues notices when operations end. The operations' bucket is the outbox: a consumer reads every change in it, so the code that ends an
 * operation does nothing for its notices (adr/0022).
 */
import type { Consumer, JsMsg } from '@nats-io/jetstream';
import type { Config, Notice, Operation, Run } from '../contract/schemas.ts';
import { isGone } from '../nats/bucket/scan.ts';
import { operationKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { operationsBucket } from '../nats/streams.ts';
import { runsToken } from '../nats/subjects.ts';
import type { Log } from '../telemetry/logger.ts';
import { endpointIn, isOfRun, noticeId, noticeOf, runNoticeOf } from './notice.ts';
import { pulled, type QueuedNotice, queueNotice } from './noticeQueue.ts';
import { type Ping, pingOf } from './ping.ts';

interface AnnounceOptions {
  nats: Nats;
  /** Delivers the changes of operations, or of runs. */
  consumer: Consumer;
  /** Which of the two. */
  of: 'operations' | 'runs';
  config: Config['notify'];
  log: Log;
  /** Aborts when this process must announce no more ends. */
  stop: AbortSignal;
}

const atOnce = 256;
const againMs = 5000;

/** Runs until `stop` aborts. */
export async function announceEnds({ nats, consumer, of, config, log, stop }: AnnounceOptions): Promise<void> {
  for await (const message of pulled(nats, consumer, async () => atOnce, stop, log)) {
    let notices: QueuedNotice[];
    try {
      if (message.headers && isGone(message.headers)) notices = [];
      else notices = of === 'runs' ? runNoticesIn(message, config) : noticesIn(message, config);
    } catch (error) {
      log.error(`not one of the ${of}`, { subject: message.subject, error });
      message.term(`not one of the ${of}`);
      continue;
    }
    try {
      for (const notice of notices) await queueNotice(nats, notice);
      message.ack();
    } catch (error) {
      log.warn('notices of an end were not queued; trying again', { subject: message.subject, error });
      message.nak(againMs);
    }
  }
}

/**
 * One notice per endpoint; an endpoint that both name counts as the configuration's. None for an operation that has not ended. A run's operations are covered
 * by the notice of the run, unless `notify.children` is true.
 */
function noticesIn(message: JsMsg, config: Config['notify']): QueuedNotice[] {
  const operation = message.json<Operation>();
  const { remote, id } = operation;
  // NATS lets a worker write only keys of its own host, but a record may name any.
  if (message.subject !== `$KV.${operationsBucket}.${operationKey(remote, id)}`)
    throw new Error('the record names another host or id than its key');
  const notice = noticeOf(operation);
  if (!notice) return [];
  const common = { id: noticeId(notice), remote, operation: id, body: JSON.stringify(notice) };
  const usual = isOfRun(operation) && !config.children ? [] : config.endpoints;
  return toEach(common, notice.state, endpointIn(operation), { ...config, endpoints: usual });
}

function runNoticesIn(message: JsMsg, config: Config['notify']): QueuedNotice[] {
  const run = message.json<Run>();
  const common = { remote: runsToken, operation: run.id };
  const ping = pingOf(run);
  const pings = ping ? [queuedPing(common, ping)] : [];
  const notice = runNoticeOf(run);
  if (!notice) return pings;
  const content = { ...common, id: noticeId(notice), body: JSON.stringify(notice) };
  return [...pings, ...toEach(content, notice.state, run.request.notifyEndpoint, config)];
}

function queuedPing(
  { remote, operation }: Pick<QueuedNotice, 'remote' | 'operation'>,
  { url: endpoint, body, method, what }: Ping,
): QueuedNotice {
  const id = `${operation}_ping_${what}`;
  return { id, remote, operation, endpoint, namedBy: 'request', body, ping: { method, what } };
}

function toEach(
  common: Omit<QueuedNotice, 'endpoint' | 'namedBy'>,
  state: Notice['state'],
  named: string | undefined,
  config: Config['notify'],
): QueuedNotice[] {
  const usual = config.events.includes(state) ? config.endpoints : [];
  return [
    ...usual.map((endpoint) => ({ ...common, endpoint, namedBy: 'configuration' as const })),
    ...(named === undefined || usual.includes(named)
      ? []
      : [{ ...common, endpoint: named, namedBy: 'request' as const }]),
  ];
}

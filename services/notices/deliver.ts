/** Takes notices from the queue and posts each to its endpoint, until that has taken it or it is given up. */
import type { Consumer, JsMsg } from '@nats-io/jetstream';
import { readText } from '../config.ts';
import type { Config } from '../contract.ts';
import type { Log } from '../logger.ts';
import type { GatewayMetrics } from '../metrics.ts';
import { parseNotice, pulled, type QueuedNotice } from '../queue/notices.ts';
import { version } from '../version.ts';
import { isListed, refusalOf, shown } from './endpoints.ts';
import { type Answer, post } from './post.ts';
import { webhookHeaders } from './signature.ts';

export interface DeliverOptions {
  consumer: Consumer;
  config: Config['notify'];
  metrics: Pick<GatewayMetrics, 'notices'>;
  log: Log;
  /** Aborts when no more are to be taken. */
  stop: AbortSignal;
  /** Aborts when those under way must go back to the queue. */
  handingBack: AbortSignal;
}

const slots = 16;
/** Of them to one host: one that hangs must leave some to others. */
const slotsPerHost = 8;
const firstRetryMs = 2000;
const longestRetryMs = 2 * 3_600_000;
const hourMs = 3_600_000;

export class Deliverer {
  readonly #options: DeliverOptions;
  readonly #ca: string | undefined;
  readonly #underWay = new Set<Promise<void>>();
  readonly #hosts = new Map<string, number>();

  /** Throws bad-config when `notify.ca` cannot be read. */
  constructor(options: DeliverOptions) {
    this.#options = options;
    const { ca } = options.config;
    this.#ca = ca === undefined ? undefined : readText(ca, 'notify.ca');
  }

  /** Until `stop`; resolves when those under way have ended. */
  async run(): Promise<void> {
    const { consumer, stop, log } = this.#options;
    for await (const message of pulled(consumer, () => this.#room(), stop, log)) {
      const handling = this.#handle(message).catch((error) => {
        // It comes again by itself.
        log.warn('a notice was dropped for now', { subject: message.subject, error });
      });
      this.#underWay.add(handling);
      void handling.finally(() => this.#underWay.delete(handling));
    }
    await Promise.all(this.#underWay);
  }

  /** How many more may be under way; waits until it is one at least. */
  async #room(): Promise<number> {
    while (this.#underWay.size >= slots) await Promise.race(this.#underWay);
    return slots - this.#underWay.size;
  }

  async #handle(message: JsMsg): Promise<void> {
    const { metrics, handingBack } = this.#options;
    const notice = parseNotice(message);
    if (!notice) {
      this.#options.log.error('not a notice', { subject: message.subject });
      return message.term('not a notice');
    }
    const host = shown(notice.endpoint);
    const log = this.#options.log.child({ operation: notice.operation, notice: notice.id, endpoint: host });
    const busy = this.#hosts.get(host) ?? 0;
    if (busy >= slotsPerHost) return message.nak(retryMs(message));
    this.#hosts.set(host, busy + 1);
    let answer: Answer;
    try {
      answer = await this.#post(notice);
    } catch (error) {
      if (!handingBack.aborted) throw error;
      return message.nak();
    } finally {
      const left = (this.#hosts.get(host) ?? 1) - 1;
      if (left === 0) this.#hosts.delete(host);
      else this.#hosts.set(host, left);
    }
    if (answer.is === 'taken') {
      metrics.notices.inc({ result: 'delivered' });
      log.info('notice delivered', { status: answer.status, tries: message.info.deliveryCount });
      return void (await message.ackAck());
    }
    const delayMs = Math.max(
      retryMs(message),
      Math.min((answer.is === 'later' && answer.afterMs) || 0, longestRetryMs),
    );
    if (answer.is === 'later' && ageMs(message) + delayMs < this.#options.config.giveUpAfterHours * hourMs) {
      metrics.notices.inc({ result: 'retried' });
      log.warn('notice not delivered, it is tried again', { why: answer.why, delayMs });
      return message.nak(delayMs);
    }
    metrics.notices.inc({ result: 'given-up' });
    log.error('notice given up', { why: answer.why, tries: message.info.deliveryCount });
    message.term(answer.why);
  }

  /** What the configuration says now counts, not what it said when the notice was queued. */
  async #post({ id, endpoint, namedBy, body }: QueuedNotice): Promise<Answer> {
    const { config, handingBack } = this.#options;
    const listed = config.endpoints.includes(endpoint);
    if (namedBy === 'configuration' && !listed) return { is: 'refused', why: 'notify.endpoints has it no more' };
    const refusal = listed ? undefined : refusalOf(endpoint, config);
    if (refusal !== undefined) return { is: 'refused', why: refusal };
    const url = new URL(endpoint);
    return post(url, {
      headers: {
        'content-type': 'application/json',
        'user-agent': `lxstow/${version}`,
        ...webhookHeaders({ id, time: new Date(), body }, config.secret),
      },
      body,
      ca: this.#ca,
      timeoutMs: config.timeoutMs,
      mayBeOwn: listed || isListed(url, config),
      signal: handingBack,
    });
  }
}

/** 2 s doubling to 2 h, by how often it was taken from the queue; jittered, so that those that failed together do not come together. */
function retryMs({ info }: JsMsg): number {
  const delayMs = Math.min(firstRetryMs * 2 ** (info.deliveryCount - 1), longestRetryMs);
  return Math.round(delayMs * (0.75 + Math.random() / 2));
}

/** Since it was queued. */
function ageMs({ info }: JsMsg): number {
  return Date.now() - info.timestampNanos / 1e6;
}

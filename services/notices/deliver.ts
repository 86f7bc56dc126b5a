/** Takes notices from the queue and posts each to its webhook, until the webhook accepts it or lxstow gives up. */
import type { Consumer, JsMsg } from '@nats-io/jetstream';
import { jittered } from '../concurrency/jitter.ts';
import { Semaphore } from '../concurrency/semaphore.ts';
import { readText } from '../contract/config.ts';
import { hourMs } from '../contract/durations.ts';
import type { Config } from '../contract/schemas.ts';
import { version } from '../contract/version.ts';
import type { Log } from '../telemetry/logger.ts';
import type { GatewayMetrics } from '../telemetry/metrics.ts';
import { isListed, refusalOf, shown } from './allowedEndpoints.ts';
import { parseNotice, pulled, type QueuedNotice } from './noticeQueue.ts';
import { type OutdatedPings, pingTriedMs } from './outdatedPings.ts';
import { type Answer, post } from './post.ts';
import { webhookHeaders } from './signature.ts';

interface DeliverOptions {
  nats: Parameters<typeof pulled>[0];
  consumer: Consumer;
  config: Config['notify'];
  metrics: Pick<GatewayMetrics, 'notices'>;
  log: Log;
  /** Says which pings must not be sent any more, and why. */
  outdated: Pick<OutdatedPings, 'reason'>;
  /** Aborts when this process must take no more notices. */
  stop: AbortSignal;
  /** Aborts when notices that are being delivered must go back to the queue. */
  handingBack: AbortSignal;
}

const slots = 16;
/** A host that hangs must leave slots to others. */
const slotsPerHost = 8;
/** Notices in hand for one host, including those that wait for one of its slots; further ones go back to the queue. */
const heldPerHost = 24;
/** Notices in hand in total, when there is more than one host. */
const held = 40;
/** How long a notice waits for its slots. Together with the longest `notify.timeoutMs` this is well below the consumer's ack_wait. */
const longestHeldMs = 5000;
const firstRetryMs = 2000;
const longestRetryMs = 2 * 3_600_000;

interface Host {
  slots: Semaphore;
  inHand: number;
}

export class Deliverer {
  readonly #options: DeliverOptions;
  readonly #ca: string | undefined;
  readonly #underWay = new Set<Promise<void>>();
  readonly #slots = new Semaphore(slots);
  readonly #hosts = new Map<string, Host>();

  /** Throws bad-config when `notify.ca` cannot be read. */
  constructor(options: DeliverOptions) {
    this.#options = options;
    const { ca } = options.config;
    this.#ca = ca === undefined ? undefined : readText(ca, 'notify.ca');
  }

  /** Runs until `stop` aborts; resolves when the notices under way have ended. */
  async run(): Promise<void> {
    const { nats, consumer, stop, log } = this.#options;
    for await (const message of pulled(nats, consumer, () => this.#room(), stop, log)) {
      const handling = this.#handle(message).catch((error) => {
        // NATS redelivers it.
        log.warn('a notice was dropped for now', { subject: message.subject, error });
      });
      this.#underWay.add(handling);
      void handling.finally(() => this.#underWay.delete(handling));
    }
    await Promise.all(this.#underWay);
  }

  /** Waits until another notice may be in hand; returns how many more may be. With one host, they may all be for it. */
  async #room(): Promise<number> {
    for (;;) {
      const room = (this.#hosts.size > 1 ? held : heldPerHost) - this.#underWay.size;
      if (room > 0) return room;
      await Promise.race(this.#underWay);
    }
  }

  async #handle(message: JsMsg): Promise<void> {
    const notice = parseNotice(message);
    if (!notice) {
      this.#options.log.error('not a notice', { subject: message.subject });
      return message.term('not a notice');
    }
    const name = shown(notice.endpoint);
    const host = this.#hosts.get(name) ?? { slots: new Semaphore(slotsPerHost), inHand: 0 };
    if (host.inHand >= heldPerHost) return message.nak(retryMs(message));
    this.#hosts.set(name, host);
    host.inHand++;
    try {
      await this.#deliver(message, notice, name, host);
    } finally {
      host.inHand--;
      if (host.inHand === 0) this.#hosts.delete(name);
    }
  }

  /** Waits for slots, posts, and acks, naks or terminates the message. */
  async #deliver(message: JsMsg, notice: QueuedNotice, name: string, host: Host): Promise<void> {
    const { metrics, handingBack, stop } = this.#options;
    const log = this.#options.log.child({ operation: notice.operation, notice: notice.id, endpoint: name });
    const waiting = AbortSignal.any([AbortSignal.timeout(longestHeldMs), stop]);
    let answer: Answer;
    try {
      using _ofHost = await host.slots.take(waiting);
      using _slot = await this.#slots.take(waiting);
      const why = notice.ping && (await this.#options.outdated.reason(notice.operation, notice.ping.what));
      if (why !== undefined) {
        log.info('ping not sent', { ping: notice.ping?.what, why });
        return message.term(why);
      }
      answer = await this.#post(notice);
    } catch (error) {
      if (handingBack.aborted || stop.aborted) return message.nak();
      if (waiting.aborted) return message.nak(retryMs(message));
      throw error;
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
    if (answer.is === 'later' && ageMs(message) + delayMs < this.#triedMs(notice)) {
      metrics.notices.inc({ result: 'retried' });
      log.warn('notice not delivered, it is tried again', { why: answer.why, delayMs });
      return message.nak(delayMs);
    }
    metrics.notices.inc({ result: 'given-up' });
    log.error('notice given up', { why: answer.why, tries: message.info.deliveryCount });
    message.term(answer.why);
  }

  #triedMs({ ping }: QueuedNotice): number {
    const ms = this.#options.config.giveUpAfterHours * hourMs;
    return ping ? Math.min(ms, pingTriedMs[ping.what]) : ms;
  }

  /** Posts the notice if the current configuration allows its webhook, whatever the configuration was when the notice was queued. */
  async #post({ id, endpoint, namedBy, body, ping }: QueuedNotice): Promise<Answer> {
    const { config, handingBack } = this.#options;
    const listed = config.endpoints.includes(endpoint);
    if (namedBy === 'configuration' && !listed) return { is: 'refused', why: 'notify.endpoints no longer lists it' };
    const refusal = listed ? undefined : refusalOf(endpoint, config);
    if (refusal !== undefined) return { is: 'refused', why: refusal };
    const url = new URL(endpoint);
    return post(url, {
      method: ping?.method ?? 'POST',
      headers: {
        'user-agent': `lxstow/${version}`,
        'content-type': ping ? 'text/markdown; charset=utf-8' : 'application/json',
        ...(ping ? {} : webhookHeaders({ id, time: new Date(), body }, config.secret)),
      },
      body,
      ca: this.#ca,
      timeoutMs: config.timeoutMs,
      mayBeOwn: listed || isListed(url, config),
      signal: handingBack,
    });
  }
}

/** 2 s doubling to 2 h, by the number of deliveries; jittered, so that notices that failed together are not retried together. */
function retryMs({ info }: JsMsg): number {
  return jittered(Math.min(firstRetryMs * 2 ** (info.deliveryCount - 1), longestRetryMs));
}

/** Time since the message was queued. */
function ageMs({ info }: JsMsg): number {
  return Date.now() - info.timestampNanos / 1e6;
}

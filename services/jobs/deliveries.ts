/**
 * Delivers jobs from NATS to one loop. Only one pull is open at a time, for one message, so that NATS assigns no job that the loop does not run. One
 * subscription serves all pulls; the client's own `next` creates one for each (adr/0025).
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { JsMsg } from '@nats-io/jetstream';
import { type Msg, NoRespondersError, nanos, type Subscription } from '@nats-io/transport-node';
import { LxstowError } from '../contract/errors.ts';
import { type Nats, natsFailure } from '../nats/connection.ts';
import { jobsStream } from '../nats/topology.ts';

/** A job message, and the ways to acknowledge it. */
export type Delivery = Pick<
  JsMsg,
  'subject' | 'data' | 'headers' | 'seq' | 'time' | 'redelivered' | 'working' | 'nak' | 'term' | 'ackAck'
>;

/** NATS ends a pull after this time, and we start another. */
const pullExpiresMs = 5000;
/** A pull that NATS does not end in this time is lost: its server died. */
const pullLostMs = pullExpiresMs + 1000;
const drainMs = 2000;

export class Deliveries implements AsyncDisposable {
  readonly #nats: Nats;
  readonly #subject: string;
  readonly #inbox: string;
  readonly #stopping: AbortSignal;
  readonly #closing = new DisposableStack();
  #subscription: Subscription;
  #pulls = 0;
  #timer: NodeJS.Timeout | undefined;
  #waiting: PromiseWithResolvers<Delivery | undefined> | undefined;

  /** `stopping` ends the wait in `next`. */
  constructor(nats: Nats, consumer: string, stopping: AbortSignal) {
    this.#nats = nats;
    this.#subject = `$JS.API.CONSUMER.MSG.NEXT.${jobsStream}.${consumer}`;
    this.#inbox = nats.newInbox();
    this.#stopping = stopping;
    this.#subscription = this.#listen();
    this.#closing.use(nats.onReconnect(() => this.#pull()));
    const stop = () => this.#settle()?.resolve(undefined);
    stopping.addEventListener('abort', stop, { once: true });
    this.#closing.defer(() => stopping.removeEventListener('abort', stop));
  }

  /** Waits for the next message without a time limit; undefined when the worker stops. Throws if the consumer is gone or has no leader. */
  async next(): Promise<Delivery | undefined> {
    if (this.#stopping.aborted) return undefined;
    this.#waiting = Promise.withResolvers();
    this.#pull();
    return this.#waiting.promise;
  }

  /** NAKs whatever arrives until NATS has processed the unsubscribe. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.dispose();
    this.#settle()?.resolve(undefined);
    if (this.#nats.connected && !this.#subscription.isClosed())
      await Promise.race([this.#subscription.drain(), delay(drainMs, undefined, { ref: false })]);
  }

  #listen(): Subscription {
    return this.#nats.connection.subscribe(`${this.#inbox}.*`, {
      callback: (error, message) => {
        if (!error) this.#hear(message);
        else this.#fail(error);
      },
    });
  }

  /** Starts a pull if `next` waits. If a pull given up as lost still delivers, the surplus message is NAKed. */
  #pull(): void {
    clearTimeout(this.#timer);
    if (!this.#waiting || !this.#nats.connected) return;
    if (this.#subscription.isClosed()) this.#subscription = this.#listen();
    const request = JSON.stringify({ batch: 1, expires: nanos(pullExpiresMs) });
    this.#nats.tell(this.#subject, request, { reply: `${this.#inbox}.${++this.#pulls}` });
    this.#timer = setTimeout(() => this.#pull(), pullLostMs);
  }

  #hear(message: Msg): void {
    if (message.subject.startsWith(this.#inbox)) return void this.#heed(message);
    const place = placeOf(message.reply ?? '');
    if (!place) {
      const error = new LxstowError('nats-unfit', `NATS delivers a job without its place: ${message.reply}`);
      return void this.#fail(error);
    }
    const delivery = new Pulled(message, place, this.#nats);
    const waiting = this.#settle();
    if (waiting) waiting.resolve(delivery);
    else delivery.nak();
  }

  /** Handles the status of a pull; only the latest pull counts. */
  #heed({ subject, headers }: Msg): void {
    if (subject !== `${this.#inbox}.${this.#pulls}`) return;
    const { code = 0, description } = headers ?? {};
    if (code === noneInTime) this.#pull();
    else this.#fail(code === 503 ? new NoRespondersError(this.#subject) : new Error(description ?? `status ${code}`));
  }

  #fail(error: Error): void {
    this.#settle()?.reject(natsFailure(error, 'waiting for a job'));
  }

  #settle(): PromiseWithResolvers<Delivery | undefined> | undefined {
    clearTimeout(this.#timer);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    return waiting;
  }
}

const noneInTime = 408;

/** A message's position in the stream, and whether it was delivered before. */
type Place = Pick<Delivery, 'seq' | 'time' | 'redelivered'>;

/** `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<sequence>.<sequence of deliveries>.<time>.<pending>[.<random>]` */
function placeOf(reply: string): Place | undefined {
  const tokens = reply.split('.');
  const [delivered, seq, , time] = tokens.slice(tokens.length === 9 ? 4 : 6).map(Number);
  if (!reply.startsWith('$JS.ACK.') || !delivered || !seq || !time) return undefined;
  return { seq, time: new Date(time / 1e6), redelivered: delivered > 1 };
}

/** Like the client's own JsMsg, but `ackAck` requests its confirmation through `Nats.ask`. */
class Pulled implements Delivery {
  readonly seq: number;
  readonly time: Date;
  readonly redelivered: boolean;
  readonly #message: Msg;
  readonly #nats: Nats;
  #answered = false;

  constructor(message: Msg, { seq, time, redelivered }: Place, nats: Nats) {
    this.seq = seq;
    this.time = time;
    this.redelivered = redelivered;
    this.#message = message;
    this.#nats = nats;
  }

  get subject(): string {
    return this.#message.subject;
  }

  get data(): Uint8Array {
    return this.#message.data;
  }

  get headers() {
    return this.#message.headers;
  }

  get reply(): string {
    return this.#message.reply ?? '';
  }

  working(): void {
    if (!this.#answered) this.#nats.connection.publish(this.reply, '+WPI');
  }

  nak(delayMs = 0): void {
    this.#answer(delayMs > 0 ? `-NAK {"delay": ${nanos(delayMs)}}` : '-NAK');
  }

  term(reason = ''): void {
    this.#answer(`+TERM ${reason}`.trim());
  }

  async ackAck(): Promise<boolean> {
    if (this.#answered) return false;
    this.#answered = true;
    await this.#nats.ask(this.reply, '+ACK');
    return true;
  }

  #answer(word: string): void {
    if (this.#answered) return;
    this.#answered = true;
    this.#nats.connection.publish(this.reply, word);
  }
}

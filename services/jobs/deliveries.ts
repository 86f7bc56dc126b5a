/**
 * Delivers jobs from NATS to one loop. A pull asks for one message, so that NATS assigns no job that the loop does not run; the client's `consume` would
 * delay the next job by a job that takes hours (docs/nats.md).
 */
import type { Consumer, JsMsg } from '@nats-io/jetstream';
import type { Nats } from '../nats/connection.ts';
import { natsFailure } from '../nats/failures.ts';
import { pull } from '../nats/pull.ts';
import { jobsStream } from '../nats/streams.ts';

/** A job message, and the ways to acknowledge it. */
export type Delivery = Pick<
  JsMsg,
  'subject' | 'data' | 'headers' | 'seq' | 'time' | 'redelivered' | 'working' | 'nak' | 'term' | 'ackAck'
>;

/** NATS ends a pull after this time, and we start another. The client gives one up that misses two heartbeats, one each half of it. */
const pullExpiresMs = 5000;

export class Deliveries {
  readonly #nats: Nats;
  readonly #consumer: Consumer;
  readonly #stopping: AbortSignal;

  /** `stopping` ends the wait in `next`. Throws nats-unavailable, nats-unfit. */
  static async open(nats: Nats, consumer: string, stopping: AbortSignal): Promise<Deliveries> {
    const found = await nats.ask('looking for the queue', () => nats.js.consumers.get(jobsStream, consumer));
    return new Deliveries(nats, found, stopping);
  }

  private constructor(nats: Nats, consumer: Consumer, stopping: AbortSignal) {
    this.#nats = nats;
    this.#consumer = consumer;
    this.#stopping = stopping;
  }

  /** Waits for the next message without a time limit; undefined when the worker stops. Throws if the consumer is gone or has no leader. */
  async next(): Promise<Delivery | undefined> {
    const options = { max_messages: 1, expires: pullExpiresMs };
    try {
      while (!this.#stopping.aborted) {
        // A message that is still on its way when the worker stops is redelivered after `ackWaitMs`.
        for await (const message of pull(this.#nats, this.#consumer, options, this.#stopping)) {
          if (!this.#stopping.aborted) return message;
          message.nak();
        }
      }
      return undefined;
    } catch (error) {
      throw natsFailure(error, 'waiting for a job');
    }
  }
}

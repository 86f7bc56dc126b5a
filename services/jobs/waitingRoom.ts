/**
 * The order of jobs that wait for a lease on their instance, or for a permit: those that wait at this worker for one lease begin by their sequence in
 * the stream. A worker does not know the jobs that wait at other workers. Each job stays on the queue under a delayed NAK, which this worker renews
 * while it lives. The first job of each lease is called when a lease is released, and every few seconds, because a dead holder releases nothing. Any
 * number may wait without slowing down jobs that need not wait (adr/0020).
 */
import type { Msg } from '@nats-io/transport-node';
import { waitKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { freedSubject, nudgeSubject } from '../nats/subjects.ts';
import { listen } from '../nats/subscriptions.ts';
import type { Delivery } from './deliveries.ts';

interface Waiting {
  sequence: number;
  /** `waitKey` of the lease's key. */
  lease: string;
  operation: string;
  /** Reply subject of the message. */
  reply: string;
  /** When NATS redelivers it, by performance.now(). */
  due: number;
  called: boolean;
}

export interface WaitingRoomOptions {
  nats: Nats;
  remote: string;
  /** The first job of each lease is called at least this often. */
  callEveryMs?: number;
  /** Delay of a NAK; 10 ms more for each job that already waits. If the worker dies, the job is redelivered then. */
  handedBackMs?: number;
  /** Called when one more, or one less, job waits for a lease. */
  onChange?: (lease: string, by: 1 | -1) => void;
}

const longerEachMs = 10;
/** Do not NAK within a second of redelivery: another worker may have the message by then. */
const marginMs = 1000;
/** After it is called, a job may take this long to arrive; until then, later jobs wait. */
const onItsWayMs = 2000;

export class WaitingRoom implements Disposable {
  readonly #options: Required<WaitingRoomOptions>;
  readonly #waiting = new Map<number, Waiting>();
  readonly #byLease = new Map<string, Set<Waiting>>();
  readonly #closing = new DisposableStack();
  #closed = false;

  constructor(options: WaitingRoomOptions) {
    this.#options = { callEveryMs: 3000, handedBackMs: 15_000, onChange: () => undefined, ...options };
    const { nats, remote } = options;
    this.#closing.use(listen(nats, freedSubject(remote), (message) => this.callFirst(message.string())));
    // A job that is cancelled while it waits need not wait any longer.
    const cancelled = ({ subject }: Msg) => this.#callOperation(subject.split('.').at(-1) ?? '');
    this.#closing.use(listen(nats, nudgeSubject(remote, '*'), cancelled));
    const timer = setInterval(() => this.#tick(), this.#options.callEveryMs);
    this.#closing.defer(() => clearInterval(timer));
  }

  /** Whether an earlier job waits here for the lease: a new one must not overtake it. A redelivered job has waited already, or was called. */
  isBehind(lease: string, { seq, redelivered }: Pick<Delivery, 'seq' | 'redelivered'>): boolean {
    if (redelivered) return false;
    for (const each of this.#byLease.get(lease) ?? []) if (each.sequence < seq) return true;
    return false;
  }

  /** NAKs the message until the lease may be free. */
  wait(message: Pick<Delivery, 'seq' | 'nak'>, lease: string, operation: string): void {
    if (this.#closed) return void message.nak();
    const delayMs = this.#delayMs();
    // The delivery has a `reply`; its type does not.
    const { seq: sequence, reply } = message as typeof message & { reply: string };
    // Another slot had it too: what a slot does before an attempt may take longer than `ackWaitMs`.
    this.arrived(sequence);
    const due = performance.now() + delayMs;
    message.nak(delayMs);
    const waiting = { sequence, lease, operation, reply, due, called: false };
    this.#waiting.set(sequence, waiting);
    const those = this.#byLease.get(lease) ?? new Set();
    this.#byLease.set(lease, those.add(waiting));
    this.#options.onChange(lease, 1);
  }

  /** Forgets a message that was redelivered. */
  arrived(sequence: number): void {
    this.#forget(this.#waiting.get(sequence));
  }

  /** Announces a released lease to all workers of the remote. */
  freed(key: string): void {
    const { nats, remote } = this.#options;
    if (nats.connected) nats.connection.publish(freedSubject(remote), waitKey(key));
  }

  /** Lets NATS redeliver, now, the first job that waits for this lease. */
  callFirst(lease: string): void {
    let first: Waiting | undefined;
    for (const each of this.#byLease.get(lease) ?? [])
      if (!each.called && (!first || each.sequence < first.sequence)) first = each;
    if (first) this.#call(first);
  }

  /** Lets NATS redeliver all waiting jobs now, to any worker. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#closing.dispose();
    for (const each of this.#waiting.values()) {
      this.#call(each);
      this.#forget(each);
    }
  }

  #callOperation(operation: string): void {
    for (const each of this.#waiting.values()) if (each.operation === operation) this.#call(each);
  }

  /** A second NAK, without a delay, overrides the first. Never twice for one delivery: another worker may have the job by then. */
  #call(waiting: Waiting): void {
    if (this.#nak(waiting, '-NAK', onItsWayMs)) waiting.called = true;
  }

  #delayMs(): number {
    return this.#options.handedBackMs + this.#waiting.size * longerEachMs;
  }

  #tick(): void {
    const now = performance.now();
    for (const each of this.#waiting.values()) if (each.due <= now) this.#forget(each);
    for (const lease of this.#byLease.keys()) this.callFirst(lease);
    for (const each of this.#waiting.values()) if (each.due - now < this.#options.handedBackMs / 2) this.#keep(each);
  }

  /** Renews the delayed NAK before NATS redelivers the job. */
  #keep(waiting: Waiting): void {
    const delayMs = this.#delayMs();
    this.#nak(waiting, `-NAK {"delay": ${delayMs * 1_000_000}}`, delayMs);
  }

  /** Sends a NAK for a job that certainly still waits here, and expects it in `dueMs`; returns whether it was sent. */
  #nak(waiting: Waiting, word: string, dueMs: number): boolean {
    const { nats } = this.#options;
    const now = performance.now();
    if (waiting.called || waiting.due - now < marginMs || !nats.connected) return false;
    nats.connection.publish(waiting.reply, word);
    waiting.due = now + dueMs;
    return true;
  }

  #forget(waiting: Waiting | undefined): void {
    if (!waiting) return;
    const those = this.#byLease.get(waiting.lease);
    this.#waiting.delete(waiting.sequence);
    those?.delete(waiting);
    this.#options.onChange(waiting.lease, -1);
    if (those?.size === 0) this.#byLease.delete(waiting.lease);
  }
}

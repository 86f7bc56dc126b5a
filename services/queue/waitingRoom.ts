/**
 * Jobs that wait for a lease: that on their instance, or a permit. They lie on the queue, handed back, and are kept there while this worker lives;
 * the first of each lease is called when one is given back, and every few seconds, for a holder that died gives nothing back. So any number
 * may wait, and those that need not wait do not notice (adr/0020).
 */
import type { Nats } from './connection.ts';
import type { Delivery } from './deliveries.ts';
import { freedSubject, nudgeSubject, waitedFor } from './topology.ts';

interface Waiting {
  sequence: number;
  /** What `waitedFor` makes of the lease. */
  lease: string;
  operation: string;
  /** Where the message is answered. */
  reply: string;
  /** When it comes again, by performance.now(). */
  due: number;
  called: boolean;
}

export interface WaitingRoomOptions {
  nats: Nats;
  remote: string;
  /** The first of each lease is called at least so often. */
  callEveryMs?: number;
  /** So long a job is handed back for at a time, and 10 ms longer for each that waits already. If its worker dies it comes again then. */
  handedBackMs?: number;
  /** Told when one more, or one less, waits for a lease. */
  onChange?: (lease: string, by: 1 | -1) => void;
}

const longerEachMs = 10;
/** One that is about to come again is let come: it may be with somebody else by then. */
const marginMs = 1000;
/** One that was called is on its way for so long, and whoever is behind it stays so. */
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
    const listen = (subject: string, heard: (subject: string, text: string) => void) => {
      const subscription = nats.connection.subscribe(subject, {
        callback: (error, message) => {
          if (!error) heard(message.subject, message.string());
        },
      });
      this.#closing.defer(() => subscription.unsubscribe());
    };
    listen(freedSubject(remote), (_, lease) => this.callFirst(lease));
    // A job that was cancelled while it waits need not be waited for.
    listen(nudgeSubject(remote, '*'), (subject) => this.#callOperation(subject.split('.').at(-1) ?? ''));
    const timer = setInterval(() => this.#look(), this.#options.callEveryMs);
    this.#closing.defer(() => clearInterval(timer));
  }

  /** Whether a job that came before this one waits here for the lease: a new one may not overtake it. */
  isBehind(lease: string, { seq, redelivered }: Pick<Delivery, 'seq' | 'redelivered'>): boolean {
    if (redelivered) return false;
    for (const each of this.#byLease.get(lease) ?? []) if (each.sequence < seq) return true;
    return false;
  }

  /** Hands the message back until the lease may be had. */
  wait(message: Pick<Delivery, 'seq' | 'nak'>, lease: string, operation: string): void {
    if (this.#closed) return void message.nak();
    const those = this.#byLease.get(lease) ?? new Set();
    const delayMs = this.#delayMs();
    // The client knows where a message is answered; its type does not.
    const { seq: sequence, reply } = message as typeof message & { reply: string };
    const due = performance.now() + delayMs;
    message.nak(delayMs);
    const waiting = { sequence, lease, operation, reply, due, called: false };
    this.#waiting.set(sequence, waiting);
    this.#byLease.set(lease, those.add(waiting));
    this.#options.onChange(lease, 1);
  }

  /** A message has come: it does not wait any more. */
  arrived(sequence: number): void {
    this.#forget(this.#waiting.get(sequence));
  }

  /** Tells all workers of the remote that a lease was given back. */
  freed(key: string): void {
    const { nats, remote } = this.#options;
    if (nats.connected) nats.tell(freedSubject(remote), waitedFor(key));
  }

  /** Has the first job that waits for this come again now. */
  callFirst(lease: string): void {
    let first: Waiting | undefined;
    for (const each of this.#byLease.get(lease) ?? [])
      if (!each.called && (!first || each.sequence < first.sequence)) first = each;
    if (first) this.#call(first);
  }

  /** Gives all back to whoever takes them. */
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

  /** A second NAK, without a delay, ends that of the first. Never twice for one delivery: the job may be with somebody by then. */
  #call(waiting: Waiting): void {
    if (this.#nak(waiting, '-NAK', onItsWayMs)) waiting.called = true;
  }

  #delayMs(): number {
    return this.#options.handedBackMs + this.#waiting.size * longerEachMs;
  }

  #look(): void {
    const now = performance.now();
    for (const each of this.#waiting.values()) if (each.due <= now) this.#forget(each);
    for (const lease of this.#byLease.keys()) this.callFirst(lease);
    for (const each of this.#waiting.values()) if (each.due - now < this.#options.handedBackMs / 2) this.#keep(each);
  }

  /** Hands it back once more before it comes by itself. */
  #keep(waiting: Waiting): void {
    const delayMs = this.#delayMs();
    this.#nak(waiting, `-NAK {"delay": ${delayMs * 1_000_000}}`, delayMs);
  }

  /** Says it of one that is surely here still, which then comes in `dueMs`; returns whether it was said. */
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

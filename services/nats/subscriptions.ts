/** Keeps subscriptions alive. When a reload takes away the right to one, NATS ends it, and does not say when the right is given back. */
import type { Msg, Subscription } from '@nats-io/transport-node';
import type { Nats } from './connection.ts';

const againMs = 10_000;

/**
 * Calls `begin` now, and again 10 s after NATS has refused a subscription to whose subject `concerns` returns true, until disposed. `begin` must end what it began before.
 */
export function keepSubscribed(nats: Nats, concerns: (subject: string) => boolean, begin: () => void): Disposable {
  let timer: NodeJS.Timeout | undefined;
  const again = () => {
    timer = undefined;
    if (!nats.connection.isClosed() && !nats.connection.isDraining()) begin();
  };
  const heeding = nats.onRefusedSubscription((subject) => {
    if (!concerns(subject)) return false;
    timer ??= setTimeout(again, againMs).unref();
    return true;
  });
  begin();
  return {
    [Symbol.dispose]() {
      heeding[Symbol.dispose]();
      clearTimeout(timer);
    },
  };
}

/** Calls `hear` with each message to this subject, until disposed. */
export function listen(nats: Nats, subject: string, hear: (message: Msg) => void, queue?: string): Disposable {
  let subscription: Subscription | undefined;
  const callback = (error: Error | null, message: Msg) => {
    if (!error) hear(message);
  };
  const keeping = keepSubscribed(
    nats,
    (refused) => refused === subject,
    () => {
      subscription?.unsubscribe();
      subscription = nats.connection.subscribe(subject, { callback, ...(queue && { queue }) });
    },
  );
  return {
    [Symbol.dispose]() {
      keeping[Symbol.dispose]();
      subscription?.unsubscribe();
    },
  };
}

/** "Look at your operation": sent when somebody asked to cancel it. A nudge may be lost; the worker looks at each heartbeat anyway. */
import type { Nats } from './connection.ts';
import { nudgeSubject } from './topology.ts';

export function nudge(nats: Nats, remote: string, operation: string): void {
  nats.connection.publish(nudgeSubject(remote, operation));
}

/** Calls `look` at each nudge, until disposed. */
export function onNudge(nats: Nats, remote: string, operation: string, look: () => void): Disposable {
  const subscription = nats.connection.subscribe(nudgeSubject(remote, operation), {
    callback: (error) => {
      if (!error) look();
    },
  });
  return { [Symbol.dispose]: () => subscription.unsubscribe() };
}

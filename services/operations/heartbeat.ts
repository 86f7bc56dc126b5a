/** What keeps an attempt going while its work is done. */
import type { Nats } from '../queue/connection.ts';
import { onNudge } from '../queue/nudges.ts';
import type { Attempt } from './attempt.ts';

/** Until disposed: renews the attempt's leases and looks for a cancel every `everyMs`, and looks at each nudge. `also` comes first each time. */
export function keepAlive(
  attempt: Attempt,
  nats: Nats,
  everyMs: number,
  also: () => void = () => undefined,
): Disposable {
  const { log, operation } = attempt;
  const look = () => attempt.lookForCancel().catch((error) => log.debug('not looked for a cancel', { error }));
  const nudges = onNudge(nats, operation.remote, operation.id, look);
  const timer = setInterval(() => {
    also();
    attempt.renew().catch((error) => log.warn('leases not renewed', { error }));
    void look();
  }, everyMs);
  return {
    [Symbol.dispose]() {
      clearInterval(timer);
      nudges[Symbol.dispose]();
    },
  };
}

/** What keeps an attempt going while its work is done. */
import type { Attempt } from './attempt.ts';

/** Where it is heard that somebody asked to cancel an operation: `look` is called then, until what it returns is disposed. */
export interface CancelSource {
  on(operation: string, look: () => void): Disposable;
}

/** Until disposed: renews the attempt's leases and looks for a cancel every `everyMs`, and whenever `cancels` says so. `also` comes first each time. */
export function keepAlive(
  attempt: Attempt,
  cancels: CancelSource,
  everyMs: number,
  also: () => void = () => undefined,
): Disposable {
  const { log, operation } = attempt;
  const look = () => attempt.lookForCancel().catch((error) => log.debug('not looked for a cancel', { error }));
  const heard = cancels.on(operation.id, look);
  const timer = setInterval(() => {
    also();
    attempt.renew().catch((error) => log.warn('leases not renewed', { error }));
    void look();
  }, everyMs);
  return {
    [Symbol.dispose]() {
      clearInterval(timer);
      heard[Symbol.dispose]();
    },
  };
}

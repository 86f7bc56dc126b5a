/** Keeps an attempt's leases alive while its work runs. */
import type { Operation } from '../contract/schemas.ts';
import type { Attempt } from './attempt.ts';

/** Calls `checkCancel` whenever a cancel of the operation is requested, until the returned object is disposed. */
export interface CancelSource {
  on(operation: Pick<Operation, 'id' | 'remote'>, checkCancel: () => void): Disposable;
}

/**
 * Until disposed: calls `onBeat`, renews the attempt's leases and checks for a cancel every `everyMs`. Also checks for a cancel whenever `cancels`
 * reports one.
 */
export function keepAlive(
  attempt: Attempt,
  cancels: CancelSource,
  everyMs: number,
  onBeat: () => void = () => undefined,
): Disposable {
  const { log, operation } = attempt;
  const checkCancel = () => attempt.lookForCancel().catch((error) => log.debug('not checked for a cancel', { error }));
  const heard = cancels.on(operation, checkCancel);
  const timer = setInterval(() => {
    onBeat();
    attempt.renew().catch((error) => log.warn('leases not renewed', { error }));
    void checkCancel();
  }, everyMs);
  return {
    [Symbol.dispose]() {
      clearInterval(timer);
      heard[Symbol.dispose]();
    },
  };
}

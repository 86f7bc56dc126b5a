/** Every change of every record in a bucket, from one watch, for all requests and event sockets of this gateway. */
import { EventEmitter, once } from 'node:events';
import type { Log } from '../../telemetry/logger.ts';

/** What a feed follows. */
export interface Followed<T> {
  /** For the log: `runs`. */
  what: string;
  find(id: string): Promise<T | undefined>;
  /** Calls `see` with each change from now on, until the signal aborts; resolves once it watches. */
  watch(see: (stored: T) => void, signal: AbortSignal, onTrouble: (error: unknown) => void): Promise<void>;
  idOf(stored: T): string;
  hasEnded(stored: T): boolean;
}

/** A change that the watch missed, over a reconnect, is found by reading again after this time. */
const lookAgainMs = 5000;
const every = Symbol('every record');

export class Feed<T> {
  readonly #followed: Followed<T>;
  readonly #changes = new EventEmitter();

  private constructor(followed: Followed<T>) {
    this.#followed = followed;
    this.#changes.setMaxListeners(0);
  }

  static async open<T>(followed: Followed<T>, log: Log, signal: AbortSignal): Promise<Feed<T>> {
    const feed = new Feed(followed);
    const see = (stored: T) => {
      feed.#changes.emit(followed.idOf(stored), stored);
      feed.#changes.emit(every, stored);
    };
    await followed.watch(see, signal, (error) => log.warn(`${followed.what} are not watched for a moment`, { error }));
    return feed;
  }

  /** Calls `see` with each change of each record, as `watchBucket` does. */
  onChange(see: (stored: T) => void): void {
    this.#changes.on(every, see);
  }

  /** Calls `look` with each change of this record, until disposed. */
  on(id: string, look: () => void): Disposable {
    this.#changes.on(id, look);
    return { [Symbol.dispose]: () => void this.#changes.off(id, look) };
  }

  /**
   * Returns the record when it has ended, or as it is when `signal` aborts; undefined if there is none of this id, at once unless it `mayCome`.
   */
  async untilEnded(
    id: string,
    signal: AbortSignal,
    { mayCome = false }: { mayCome?: boolean } = {},
  ): Promise<T | undefined> {
    const { find, hasEnded } = this.#followed;
    for (;;) {
      const woken = AbortSignal.any([signal, AbortSignal.timeout(lookAgainMs)]);
      const changed = once(this.#changes, id, { signal: woken }).then(
        ([stored]) => stored as T,
        () => undefined,
      );
      const found = await find(id);
      if (signal.aborted || (found ? hasEnded(found) : !mayCome)) return found;
      const next = await changed;
      if (next && hasEnded(next)) return next;
    }
  }
}

/** A watch of a bucket that resumes after the last revision it saw when it breaks. */
import { setTimeout as delay } from 'node:timers/promises';
import { type KvEntry, Kvm } from '@nats-io/kv';
import type { Nats } from '../connection.ts';
import { natsFailure } from '../failures.ts';

const watchAgainMs = 1000;

/**
 * Calls `see` with each value that is written from now on, once each and in the order of writing, until the signal aborts. NATS keeps only the last
 * value of a key: a value that is overwritten before NATS sends it is skipped. Resolves once the watch is open. A watch that breaks resumes where it
 * broke off; `onTrouble` gets the error. `key` may have wildcards.
 */
export async function watchBucket(
  nats: Nats,
  bucket: string,
  key: string,
  see: (entry: KvEntry) => void,
  signal: AbortSignal,
  onTrouble: (error: unknown) => void,
): Promise<void> {
  try {
    const kv = await new Kvm(nats.js).open(bucket, { allow_direct: true });
    let seen = (await nats.jsm.streams.info(`KV_${bucket}`)).state.last_seq;
    const begin = () => kv.watch({ key, resumeFromRevision: seen + 1, ignoreDeletes: true });
    let watch = await begin();
    signal.addEventListener('abort', () => watch.stop(), { once: true });
    const follow = async () => {
      for await (const entry of watch) {
        if (entry.revision <= seen) continue;
        seen = entry.revision;
        // `ignoreDeletes` lets removals and expiries through.
        if (entry.operation === 'PUT') see(entry);
      }
    };
    void (async () => {
      while (!signal.aborted) {
        try {
          await follow();
          if (signal.aborted) return;
          throw new Error('the watch ended');
        } catch (error) {
          onTrouble(error);
          watch.stop();
          await delay(watchAgainMs, undefined, { ref: false });
        }
        await begin().then((begun) => {
          watch = begun;
        }, onTrouble);
      }
      watch.stop();
    })();
    if (signal.aborted) watch.stop();
  } catch (error) {
    throw natsFailure(error, `watching ${bucket}`);
  }
}

import type { Engine } from './engines.ts';
import { findLxd } from './findLxd.ts';
import { type LabLxd, startLxd } from './lxd.ts';
import { type LabNats, startNats } from './nats.ts';
import type { Log } from './run.ts';
import { type LabS3, startS3 } from './s3.ts';

interface LabOptions {
  /** A short word for its folders' names. */
  name: string;
  log: Log;
  /** Each part is started unless this says `false`. */
  lxd?: boolean;
  /** See LxdOptions. */
  engine?: Engine;
  nats?: boolean;
  s3?: boolean;
  /** See LxdOptions. */
  poolSizeGiB?: number;
  signal?: AbortSignal;
}

export interface Lab extends AsyncDisposable {
  readonly lxd: LabLxd | undefined;
  /** Why there is no real LXD, in a sentence; the simulator (test/simulator/) may then take its place. */
  readonly lxdUnavailable: string | undefined;
  readonly nats: LabNats | undefined;
  readonly s3: LabS3 | undefined;
}

/**
 * Starts the wanted parts side by side; when one fails, the others are removed and it throws that failure. That LXD
 * cannot be had on this machine is none: `lxdUnavailable` then tells why.
 */
export async function openLab(options: LabOptions): Promise<Lab> {
  const { name, log } = options;
  await using opening = new AsyncDisposableStack();
  const failed = new AbortController();
  const signal = AbortSignal.any([failed.signal, ...(options.signal ? [options.signal] : [])]);
  let lxdUnavailable: string | undefined;
  const part = async <T extends AsyncDisposable>(wanted: boolean, start: () => Promise<T | undefined>) => {
    if (!wanted) return undefined;
    try {
      return opening.use(await start());
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  };
  const lxdWhereItCanBe = async () => {
    const { poolSizeGiB, engine } = options;
    const found = await findLxd(log, signal, engine);
    const more = { ...(poolSizeGiB ? { poolSizeGiB } : {}), ...(engine ? { engine } : {}) };
    if (found.available) return startLxd({ log, name, ...more, signal });
    lxdUnavailable = found.reason;
    log(`no real LXD: ${found.reason}`);
    return undefined;
  };
  const starting = [
    part(options.lxd ?? true, lxdWhereItCanBe),
    part(options.nats ?? true, () => startNats({ log, name, signal })),
    part(options.s3 ?? true, () => startS3({ log, name, signal })),
  ] as const;
  await Promise.allSettled(starting);
  failed.signal.throwIfAborted(); // what failed first; the others were only aborted
  const [lxd, nats, s3] = await Promise.all(starting);
  const owned = opening.move();
  return { lxd, lxdUnavailable, nats, s3, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Translates the options that say how to back up into fields of the API. */
import type { ObjectLock } from '../../contract/schemas.ts';
import { CliError, exits } from '../exit.ts';

export interface HowToBackUp {
  tag: string[];
  compression?: string;
  optimized?: boolean;
  instanceOnly?: boolean;
  lock?: number;
  lockMode?: ObjectLock['mode'];
  notify?: string;
}

/** The option of each field. */
export const backupOptions = {
  compression_algorithm: '--compression',
  optimized_storage: '--optimized',
  instance_only: '--instance-only',
  object_lock: '--lock',
  notifyEndpoint: '--notify',
  tags: '--tag',
};

export function howIn({ compression, optimized, instanceOnly, notify, ...locking }: HowToBackUp) {
  return {
    ...(compression !== undefined && { compression_algorithm: compression as 'gzip' }),
    ...(optimized !== undefined && { optimized_storage: optimized }),
    ...(instanceOnly !== undefined && { instance_only: instanceOnly }),
    ...lockIn(locking),
    ...(notify !== undefined && { notifyEndpoint: notify }),
  };
}

/** Throws usage if a mode is given without days. */
export function lockIn({ lock: days, lockMode }: Pick<HowToBackUp, 'lock' | 'lockMode'>): { object_lock?: ObjectLock } {
  if (days === undefined && lockMode) throw new CliError(exits.usage, '--lock-mode is for --lock');
  return days === undefined ? {} : { object_lock: { mode: lockMode ?? 'governance', days } };
}

/** Throws usage if a text is not `key=value`. */
export function tagsIn(texts: string[]): [key: string, value: string][] {
  return texts.map((text) => {
    const cut = text.indexOf('=');
    if (cut < 1) throw new CliError(exits.usage, `--tag ${text}: give it as key=value`);
    return [text.slice(0, cut), text.slice(cut + 1)];
  });
}

/** Translates the options that say how to back up into fields of the API. */
import type { ObjectLock, RunSelector } from '../../contract/schemas.ts';
import { CliError, exits } from '../exit.ts';
import type { Remote } from './remotes.ts';

export interface HowToBackUp {
  tag: string[];
  compression?: string;
  optimized?: boolean;
  instanceOnly?: boolean;
  lock?: number;
  lockMode?: ObjectLock['mode'];
  notify?: string;
}

/** Which instances to choose; an empty list means no restriction. */
export interface Choice {
  all?: boolean;
  selector: string[];
  exclude: string[];
  project: string[];
  target: string[];
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

/** The project: `--project`, otherwise the gateway's default project, if it has one. */
export function selectorIn(
  { all, selector: match, exclude, project, target, instances }: Choice & { instances: string[] },
  { project: own }: Remote,
): RunSelector {
  const projects = project.length > 0 || own === undefined ? project : [own];
  return {
    ...(all && { all }),
    ...(instances.length > 0 && { instances }),
    ...(match.length > 0 && { match }),
    ...(exclude.length > 0 && { exclude }),
    ...(projects.length > 0 && { projects }),
    ...(target.length > 0 && { remotes: target }),
  };
}

/** Throws usage if a mode is given without days. */
function lockIn({ lock: days, lockMode }: Pick<HowToBackUp, 'lock' | 'lockMode'>): { object_lock?: ObjectLock } {
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

/** Which instances a run's selector chooses. Pure. */
import { LxstowError } from '../contract/errors.ts';
import type { RunSelector, ScheduleBody } from '../contract/schemas.ts';
import { isSecretKey } from '../lxd/secretKeys.ts';

/** The fields of an instance that a selector reads. */
interface Selectable {
  name: string;
  status?: unknown;
  type?: unknown;
  architecture?: unknown;
  location?: unknown;
  config?: unknown;
  expanded_config?: unknown;
}

/** An instance with this key set to true is in no run. */
export const excludeKey = 'user.lxstow.exclude';
/** Names of schedules, separated by commas. */
export const scheduleKey = 'user.lxstow.schedule';

/** Each is compared with the name of each instance. */
const mostPatterns = 32;
const fields = ['name', 'status', 'type', 'architecture', 'location'] as const;

type Match = (instance: Selectable) => boolean;

/**
 * `status=running`, `type=container`, and any key of the instance's configuration: `user.backup=daily`; `!=` for the others, a key alone for those that
 * have it. Throws bad-request for any other text.
 */
export function parseMatch(text: string): Match {
  const { key, operator, value } = partsOf(text);
  const field = fields.find((each) => each === key);
  const found = (instance: Selectable) =>
    field ? String(instance[field] ?? '').toLowerCase() : configValue(instance, key);
  const meant = field ? value.toLowerCase() : value;
  if (operator === undefined) return (instance) => found(instance) !== undefined;
  return (instance) => (found(instance) === meant) === (operator === '=');
}

function partsOf(text: string): { key: string; operator: string | undefined; value: string } {
  const [, key = '', operator, value = ''] = /^([^=!]+)(?:(!?=)(.*))?$/s.exec(text) ?? [];
  if (key === '') throw new LxstowError('bad-request', `${text}: give it as key=value, key!=value or key`);
  return { key, operator, value };
}

/**
 * For clients that may not see secrets: throws forbidden if the selector compares a secret with a value. The chosen instances would reveal the secret, guess by
 * guess. Whether an instance has such a key is no secret.
 */
export function checkNoSecrets({ match = [] }: Pick<RunSelector, 'match'>): void {
  const secret = match.map(partsOf).find(({ key, operator }) => operator !== undefined && isSecretKey(key));
  if (!secret) return;
  const { key } = secret;
  const why = `the values of ${key} may be secret, so a selector over NATS cannot compare them`;
  throw new LxstowError('forbidden', `selector: ${why}; match the key alone (${key}), or a user.* key`);
}

/** The audit log's fields of a run or schedule: what it backs up, and by which rule it deletes backups. */
export function choiceOf({ selector, keep }: Pick<ScheduleBody, 'selector' | 'keep'>): Record<string, unknown> {
  return { ...(selector && { selector: withoutSecrets(selector) }), ...(keep && { keep }) };
}

/** The selector without the values with which it compares secrets. */
function withoutSecrets(selector: RunSelector): RunSelector {
  const masked = (text: string) => {
    const [, key = '', operator = ''] = /^([^=!]+)(!?=)?/.exec(text) ?? [];
    return isSecretKey(key) ? `${key}${operator && `${operator}********`}` : text;
  };
  return { ...selector, ...(selector.match && { match: selector.match.map(masked) }) };
}

/** Whether a name fits a pattern: `*` is any number of characters, `?` one. */
export function fitsPattern(name: string, pattern: string): boolean {
  let [at, mark, star, from] = [0, 0, -1, 0];
  while (at < name.length) {
    if (pattern[mark] === '*') [star, from, mark] = [mark, at, mark + 1];
    else if (pattern[mark] === '?' || pattern[mark] === name[at]) [at, mark] = [at + 1, mark + 1];
    else if (star >= 0) [from, at, mark] = [from + 1, from + 1, star + 1];
    else return false;
  }
  while (pattern[mark] === '*') mark++;
  return mark === pattern.length;
}

/** Whether a name matches one of the patterns. Plain names among them are looked up, not compared one by one. */
function fitsAny(patterns: string[]): (name: string) => boolean {
  const plain = new Set(patterns);
  const wild = patterns.filter(isWild).map((pattern) => ({ pattern, end: /[^*?]*$/.exec(pattern)?.[0] ?? '' }));
  return (name) => plain.has(name) || wild.some(({ pattern, end }) => name.endsWith(end) && fitsPattern(name, pattern));
}

function isWild(pattern: string): boolean {
  return /[*?]/.test(pattern);
}

/** Throws bad-request for a selector that chooses nothing, or that cannot be parsed. */
export function checkSelector(selector: RunSelector): void {
  const { all, instances = [], exclude = [], match = [], schedule } = selector;
  // An empty list would choose nothing, but look as if it meant everything.
  for (const field of ['projects', 'remotes'] as const)
    if (selector[field]?.length === 0)
      throw new LxstowError('bad-request', `selector: ${field} is empty; leave it out to mean all`);
  if ([...instances, ...exclude].filter(isWild).length > mostPatterns)
    throw new LxstowError('bad-request', `selector: ${mostPatterns} patterns with * or ? at most; names may be more`);
  if (!all && instances.length === 0 && match.length === 0 && schedule === undefined)
    throw new LxstowError('bad-request', 'selector: give all, instances or match');
  if (all && instances.length > 0) throw new LxstowError('bad-request', 'selector: give all or instances, not both');
  for (const text of match) parseMatch(text);
}

/** Whether the selector matches an instance, even if the instance excludes itself by `excludeKey`. */
export function meaningOf(selector: RunSelector): (instance: Selectable & { project: string }) => boolean {
  const { all, instances: names = [], exclude = [], match = [], projects, schedule } = selector;
  const [isNamed, isExcluded] = [fitsAny(names), fitsAny(exclude)];
  const matches = match.map(parseMatch);
  const selects = all || names.length > 0 || match.length > 0;
  const fits = (each: Selectable) =>
    selects && (all || names.length === 0 || isNamed(each.name)) && matches.every((matching) => matching(each));
  return (each) =>
    (projects === undefined || projects.includes(each.project)) &&
    !isExcluded(each.name) &&
    (fits(each) || (schedule !== undefined && schedulesOf(each).includes(schedule)));
}

/** Returns the instances that the selector chooses; counts those that it would choose, but that exclude themselves by `excludeKey`. */
export function select<I extends Selectable & { project: string }>(
  instances: I[],
  selector: RunSelector,
): { chosen: I[]; excluded: number } {
  const meant = instances.filter(meaningOf(selector));
  const chosen = meant.filter((each) => !excludesItself(each));
  return { chosen, excluded: meant.length - chosen.length };
}

/** Whether an instance, or a profile of it, says that it is not to be backed up by runs. */
export function excludesItself(instance: Selectable): boolean {
  return configValue(instance, excludeKey)?.toLowerCase() === 'true';
}

/** The schedules that an instance, or a profile of it, names. */
export function schedulesOf(instance: Selectable): string[] {
  const names = (configValue(instance, scheduleKey) ?? '').split(',').map((name) => name.trim());
  return names.filter((name) => name !== '');
}

/** A key of the instance's own configuration, or else of its profiles'. */
function configValue({ config, expanded_config }: Selectable, key: string): string | undefined {
  for (const each of [config, expanded_config] as (Record<string, string> | undefined)[])
    if (each && Object.hasOwn(each, key)) return each[key];
  return undefined;
}

/**
 * Keys with which an instance or its profile changes how long its backups are kept: `user.lxstow.keep-daily=30`. Such keys make a rule keep more; they make it keep less
 * only if the rule allows that, because the right to edit an instance is not a right to delete its backups. Pure.
 */
import { Temporal } from 'temporal-polyfill';
import { faultsOf, type InstanceKeep, type KeepRule } from '../contract/schemas.ts';
import { type Candidate, checkRule, durationOf, judge, newestOf, type Verdict } from './keep.ts';

const prefix = 'user.lxstow.';
const counts = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
const names = [...counts, 'within', 'tag'] as const;
/** The keys of LXD's configuration for retention. */
export const keepKeys = names.map((name) => `${prefix}keep-${name}`);
const longestValue = 1000;

/** The texts of these keys, by the option's name: `keep-daily`. Undefined if there are none. */
export function instanceKeepOf(config: Record<string, string | undefined>): InstanceKeep | undefined {
  const found = keepKeys.flatMap((key) => {
    const value = config[key]?.slice(0, longestValue);
    return value ? [[key.slice(prefix.length), value] as const] : [];
  });
  return found.length > 0 ? Object.fromEntries(found) : undefined;
}

/** `faults`: messages about keys that were not understood, and have no effect. */
export function readKeys(keys: InstanceKeep): { keep: KeepRule; faults: string[] } {
  const keep: Record<string, unknown> = {};
  const faults: string[] = [];
  for (const [name, text] of Object.entries(keys)) {
    const [field, value] = optionOf(name, text);
    if (faultsOf('keep-rule.json', { [field]: value }).length === 0) keep[field] = value;
    else faults.push(`${prefix}${name}=${shortly(text)} is not valid, and is ignored`);
  }
  return { keep, faults };
}

/** Shortens a text to fit into a header or a log line. */
function shortly(text: string): string {
  return text.slice(0, 40).replaceAll(/[^ -~]|["\\]/g, '?');
}

function optionOf(name: string, text: string): [field: string, value: unknown] {
  if (name === 'keep-tag') return ['keep_tags', text.split(',').map((tag) => tag.trim())];
  const field = name.replace('-', '_');
  if (name === 'keep-within') return [field, text];
  return [field, text === 'unlimited' ? -1 : /^-?\d+$/.test(text) ? Number(text) : text];
}

const commonYear = Temporal.ZonedDateTime.from('2025-12-31T00:00[UTC]');

/**
 * The rule for an instance with these keys: for each option, the one that keeps more. With `instance_keys: replace`, the instance's options replace the rule's.
 * `newest`: the time that `keep_within` counts back from. It decides which of `1m` and `30d` is longer.
 */
export function ruleFor(rule: KeepRule, keys: InstanceKeep | undefined, newest = commonYear): KeepRule {
  const { instance_keys: how = 'lengthen' } = rule;
  if (!keys || how === 'ignore') return rule;
  const { keep } = readKeys(keys);
  const merged = how === 'replace' ? { ...rule, ...keep } : longer(rule, keep, newest);
  try {
    checkRule(merged);
    return merged;
  } catch {
    // The keys would replace the whole rule by zeros, so the rule stays.
    return rule;
  }
}

function longer(rule: KeepRule, keep: KeepRule, newest: Temporal.ZonedDateTime): KeepRule {
  const longest = { ...rule };
  for (const name of counts) {
    const [own = 0, wanted = 0] = [rule[`keep_${name}`], keep[`keep_${name}`]];
    if (wanted !== 0 && own >= 0 && (wanted < 0 || wanted > own)) longest[`keep_${name}`] = wanted;
  }
  const { keep_within, keep_tags } = keep;
  const [own, wanted] = [rule.keep_within, keep_within].map((text) => newest.subtract(durationOf(text)));
  if (own && wanted && Temporal.ZonedDateTime.compare(wanted, own) < 0) longest.keep_within = keep_within;
  if (keep_tags) longest.keep_tags = [...new Set([...(rule.keep_tags ?? []), ...keep_tags])];
  return longest;
}

/** Like `judge`, with the rule for this instance. A reason that the rule alone would not give names the instance's key. */
export function judgeFor<C extends Candidate>(
  backups: C[],
  rule: KeepRule,
  keys: InstanceKeep | undefined,
  now: Date,
): Verdict<C>[] {
  const meant = keys ? ruleFor(rule, keys, newestOf(backups, rule, now)) : rule;
  if (!keys || meant === rule) return judge(backups, rule, now);
  const alone = new Map(judge(backups, rule, now).map(({ backup, reasons }) => [backup, new Set(reasons)]));
  return judge(backups, meant, now).map(({ backup, action, reasons }) => ({
    ...{ backup, action },
    reasons: reasons.map((reason) => {
      const key = alone.get(backup)?.has(reason) ? undefined : keyOf(reason, keys);
      return key === undefined ? reason : `${reason} (${prefix}${key}=${keys[key]})`;
    }),
  }));
}

/** The key behind a reason: `oldest, daily` and `daily 2026-11-24` come from keep-daily. */
function keyOf(reason: string, keys: InstanceKeep): keyof InstanceKeep | undefined {
  const word = reason === 'all' ? 'last' : reason.replace(/^oldest, /, '').replace(/ .*$/, '');
  const key = `keep-${word}` as keyof InstanceKeep;
  return keys[key] === undefined ? undefined : key;
}

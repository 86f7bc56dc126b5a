/** A keep rule in words, for tables. */
import type { InstanceKeep, KeepRule } from '../../contract/schemas.ts';

/** For example `daily 30 (user.lxstow.keep-daily), monthly 12`. Options that come from a key of the instance name the key. */
export function keepWords(
  { zone: _, min_good, instance_keys: __, keep_tags = [], ...rule }: KeepRule,
  keys: InstanceKeep = {},
): string {
  const options = Object.entries({ ...rule, keep_tag: keep_tags.join(',') || undefined });
  const words = options.flatMap(([field, value]) => {
    if (value === undefined || value === 0) return [];
    const key = field.replace('_', '-') as keyof InstanceKeep;
    const text = value === -1 ? 'unlimited' : String(value);
    const from = (field === 'keep_tag' ? keys[key] : keys[key] === text) ? ` (user.lxstow.${key})` : '';
    return [`${field.replace('keep_', '')} ${text}${from}`];
  });
  return [...words, ...(min_good === undefined ? [] : [`newest ${min_good}`])].join(', ');
}

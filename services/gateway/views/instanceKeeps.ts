/** What instances say themselves about the retention of their backups, by the records in the gateway's memory. */
import type { Address, InstanceKeep, KeepRule, ScheduledAt } from '../../contract/schemas.ts';
import { ruleFor } from '../../retention/instanceKeys.ts';
import type { GatewayParts } from '../gatewayParts.ts';

/** The keys of an instance, of one that is gone its last ones. Throws nats-unavailable. */
export async function instanceKeeps({
  fleet,
}: Pick<GatewayParts, 'fleet'>): Promise<(address: Address) => InstanceKeep | undefined> {
  const { instances } = await fleet.current();
  const keeps = new Map(
    instances.flatMap(({ cursor, record: { seen } }) => (seen?.keep ? [[cursor, seen.keep] as const] : [])),
  );
  return ({ remote, project, instance }) => keeps.get(`${remote}/${project}/${instance}`);
}

/** What is kept of an instance's backups by a schedule with this rule, and which keys of the instance say so; nothing without a rule. */
export function shownKeep(
  keep: KeepRule | undefined,
  keys: InstanceKeep | undefined,
): Pick<ScheduledAt, 'keep' | 'keys'> {
  if (!keep) return {};
  const meant = ruleFor(keep, keys);
  return { keep: meant, ...(keys && meant !== keep && { keys }) };
}

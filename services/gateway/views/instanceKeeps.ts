/** The keys with which instances change how long their backups are kept, from the records in the gateway's memory. */
import type { Address, InstanceKeep, KeepRule, ScheduledAt } from '../../contract/schemas.ts';
import { ruleFor } from '../../retention/instanceKeys.ts';
import type { GatewayParts } from '../gatewayParts.ts';

/** The keys of an instance; the last ones if the instance is gone. Throws nats-unavailable. */
export async function instanceKeeps({
  fleet,
}: Pick<GatewayParts, 'fleet'>): Promise<(address: Address) => InstanceKeep | undefined> {
  const { instances } = await fleet.current();
  const keeps = new Map(
    instances.flatMap(({ cursor, record: { seen } }) => (seen?.keep ? [[cursor, seen.keep] as const] : [])),
  );
  return ({ remote, project, instance }) => keeps.get(`${remote}/${project}/${instance}`);
}

/** The rule that a schedule applies to an instance's backups, and the keys of the instance that have changed it. Empty if the schedule has no rule. */
export function shownKeep(
  keep: KeepRule | undefined,
  keys: InstanceKeep | undefined,
): Pick<ScheduledAt, 'keep' | 'keys'> {
  if (!keep) return {};
  const meant = ruleFor(keep, keys);
  return { keep: meant, ...(keys && meant !== keep && { keys }) };
}

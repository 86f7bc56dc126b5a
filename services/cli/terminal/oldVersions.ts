/** Says how much space a deletion has not freed, because the bucket keeps old versions. */
import { size } from './output.ts';

export function sayKept(bytes = 0): void {
  if (bytes === 0) return;
  const when = 'until a lifecycle rule or an administrator removes them; `lxstow doctor` says which rule there is';
  process.stderr.write(`${size(bytes)} are not free yet: the bucket keeps old versions ${when}\n`);
}

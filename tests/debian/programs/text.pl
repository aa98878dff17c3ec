# SPDX-License-Identifier: Apache-2.0
# Sorting, hashes, regular expressions, formatting, packing.
use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use Digest::SHA qw(sha1_hex sha512_hex);
use List::Util qw(sum reduce);
use POSIX qw(floor fmod strtol);

my $state = 12345;
sub next_number { return $state = ($state * 1103515245 + 12345) % 2147483648 }
my @words = map { join '', map { chr(97 + next_number() % 26) } 1 .. 3 + $_ % 6 } 1 .. 20000;
my %count;
$count{substr $_, 0, 2}++ for @words;
print join(' ', map { "$_=$count{$_}" } (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 30]), "\n";
print md5_hex(join ',', sort @words), ' ', sha1_hex(join ',', reverse sort { length $a <=> length $b || $a cmp $b } @words), "\n";
my $text = join ' ', @words;
my $vowels = () = $text =~ /[aeiou]{2,}/g;
(my $changed = $text) =~ s/(\w)(\w+)/\U$1\E$2/g;
$changed =~ s{(?<first>[A-M])(?=\w*z)}{<$+{first}>}g;
print "$vowels ", sha512_hex($changed), "\n";
my %sums;
$sums{$_ % 101} += sqrt $_ for 1 .. 100000;
printf "%d=%.12f ", $_, $sums{$_} for sort { $a <=> $b } keys %sums;
print "\n";
printf "%s %.17g %e %g %x %o %b %08.3f %+d|%-10s|%10s|\n", 'text', 1 / 3, 1e100, 1e-5, 255, 8, 10, 3.14159, 42, 'left', 'right';
print join(' ', unpack('H*', pack('w N n v V Q> d< f>', 300, 1, 2, 3, 4, 5, 6.5, 7.25))), "\n";
print sum(map { $_**3 } 1 .. 1000), ' ', (reduce { ($a * 31 + $b) % 1000003 } 1 .. 5000), ' ', fmod(10.5, 3), ' ', (strtol('ff', 16))[0], "\n";
print 18446744073709551615 % 1000000007, ' ', -7 / 2, ' ', int(-7 / 2), ' ', -7 % 3, ' ', 2**0.5, ' ', atan2(1, 1) * 4, ' ', 9**20, "\n";
my @pids = map { my $n = $_; my $pid = fork; if (!$pid) { exit $n } $pid } 1 .. 10;
print join(' ', map { waitpid $_, 0; $? >> 8 } @pids), "\n";
eval { local $SIG{ALRM} = sub { die "alarm\n" }; alarm 1; 1 while 1; };
print "ended by $@";

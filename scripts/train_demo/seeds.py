"""Hand-written word lists: seeds that tell names from common words, and sentence templates."""

from __future__ import annotations

NAMES = """
john william james george robert thomas charles henry david richard michael joseph edward paul
peter smith jones brown wilson taylor johnson martin davis miller anderson moore mary elizabeth
anna sarah margaret alice emma helen laura julia susan karen patricia carlos juan jose maria
antonio luis pedro giovanni marco hans karl heinrich wilhelm jean pierre louis jacques yuki kenji
chen wang zhang liu singh kumar ahmed mohammed hassan ali ibrahim abdul ivan vladimir sergei
boston chicago philadelphia houston seattle denver atlanta cleveland pittsburgh detroit cardiff
glasgow edinburgh manchester liverpool leeds bristol melbourne sydney brisbane perth toronto
montreal vancouver kent sussex essex norfolk yorkshire lancashire cornwall iowa ohio texas
minnesota kansas nebraska wisconsin hamburg munich frankfurt cologne milan naples turin venice
seville valencia porto mumbai delhi bangalore madras karachi lahore bihar gujarat nagoya osaka
kobe busan manila jakarta lima bogota quito caracas santiago nairobi lagos accra winchester
brentford hartford bradford stanford lincoln jefferson madison monroe jackson wellington nelson
churchill lennon mccartney presley dylan spielberg disney sony nintendo honda toyota ferrari
vinnie rooney farrell eliot alvarez oliveira antonia harlan eastman schuster wharton caleb brady
hayes winston clifton irvine davenport ezra wren joao mari aden kildare reece marquette
""".split()  # noqa: SIM905

COMMON = """
house water report engine pressure velocity heat metal stone table chair window paper letter
number method theory process system machine program computer password server network printer
invoice payment salary refund price market customer product service contract lawyer court law
doctor nurse patient disease medicine blood heart bone muscle cell protein acid gas liquid solid
energy power voltage current battery cable wire signal noise frequency light color red green blue
large small quick slow careful dangerous safe strong weak clean dirty early late annual monthly
weekly daily holiday vacation leave office meeting project manager employee worker union strike
train bus car bicycle airplane ship bridge road street garden flower tree forest river mountain
ocean storm rain snow wind weather climate temperature measure estimate calculate predict observe
describe explain discuss argue agree refuse accept reject approve submit request order deliver
ship pack open close start stop begin finish build destroy repair install remove replace copy
delete save print read write speak listen teach learn study student teacher school university
exam degree research experiment laboratory sample test result analysis data graph equation
boundary layer surface edge corner center circle square angle curve line point vector matrix
bread cheese meat fish fruit apple sugar salt kitchen cook dinner breakfast restaurant hotel
guest ticket luggage passport travel visitor badge key lock door alarm fire smoke emergency
happy sad angry afraid proud ashamed tired hungry sick healthy rich poor young old kernel queue
discrete substrate acceleration prescribed enzymes asphalt plausible topographic responsibilities
""".split()  # noqa: SIM905

TEMPLATES = (
    """
what is the {} of the {} ?|how do i {} the {} ?|who is responsible for the {} ?
when was the {} {} ?|where can i find the {} ?|why does the {} {} ?|which {} has the most {} ?
how many {} are there in the {} ?|how long does the {} take ?|is it possible to {} a {} ?
the {} must be {} before the {} .|a {} is needed for every {} .|the {} of a {} depends on its {} .
{} and {}|{} , {} and {}|{} {}|{} {} {}|{} of {}|{} for {}|{} in a {}|{} without {}
the effect of {} on {} in {}|an analysis of {} and {}|the {} was found to be {} .
please {} the {} and the {} .|you can {} it with a {} .|we have no {} for the {} .
what happens if the {} is {} ?|do i need a {} for {} ?|i forgot my {} , what should i do ?
the {} is {} by the {} .|each {} has its own {} .|if the {} is {} , call the {} .
results are given for {} and {} .|this {} describes how to {} a {} .|{} is not allowed in the {} .
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
"""Sentences whose `{}` are filled with words of the teacher's vocabulary."""

ASKING_EN = (
    """
how do i {} ?|how can i {} ?|how does {} work ?|what is {} ?|what does {} mean ?|why {} ?
what happens with {} ?|where can i find {} ?|can i {} ?|is there {} ?|what should i do : {}
when is {} ?|which {} ?|i want to know about {}
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
ASKING_ZH = (
    """
如何{}|怎么{}|怎样才能{}|什么是{}|{}是什么|{}是什么意思|为什么{}|{}怎么办|在哪里可以找到{}
可以{}吗|{}有什么用|什么时候{}|哪些{}|我想了解{}
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
"""Ways to ask about a message, which takes the place of `{}`."""

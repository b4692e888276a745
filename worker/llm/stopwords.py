"""Words that say nothing about what a text is about, in English and German."""

_ENGLISH = """
    a about above after again against all also although always am an and any are as at back be because been before
    being below between both but by came can cannot come could did do does doing done down during each either else
    even ever every few first for from further get gets give given go goes had has have having he hence her here hers
    herself him himself his how however i if in into is it its itself just last least less let like made make makes
    many may me might mine more most much must my myself neither never no nor not nothing now of off often on once one
    only onto or other others our ours ourselves out over own per perhaps quite rather really said same say says see
    seem seems several shall she should since so some something soon still such take than that the their theirs them
    themselves then there therefore these they thing things this those though through thus to today together too
    toward two under until up upon us use used uses using very via was way we well were what when where whether which
    while who whole whom whose why will with within without would yet you your yours yourself don't doesn't isn't
    aren't wasn't won't can't couldn't it's i'm you're we're they're that's there's
"""

_GERMAN = """
    ab aber alle allem allen aller alles als also am an andere anderen anderer anderes anders auch auf aus außer bei
    beide beiden beim bereits bevor bin bis bist da dabei dadurch dafür dagegen daher damit danach dann daran darauf
    darf darum darüber das dass davon davor dazu dein deine dem den denen denn dennoch der deren des deshalb dessen
    dich die dies diese diesem diesen dieser dieses dir doch dort du durch ebenso eigentlich ein eine einem einen
    einer eines einige einmal er erst es etwa etwas euch euer eure für ganz gar gegen genau gerade gibt ging habe
    haben hat hatte hatten hier hin hinter ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im immer in indem ins ist ja
    jede jedem jeden jeder jedes jedoch jene jetzt kann kannst kein keine keinem keinen keiner können könnte lassen
    machen macht man manche mehr mein meine mich mir mit muss müssen nach nachdem neben nein nicht nichts noch nun nur
    ob obwohl oder ohne schon sehr sein seine seinem seinen seiner seit sich sie sind so sogar solche soll sollen
    sollte sondern sonst soweit sowie statt trotz über um und uns unser unsere unter viel viele vom von vor wann war
    waren warum was wegen weil weiter welche welchem welchen welcher wenig wenn wer werde werden wessen wie wieder will
    wir wird wo wohl wollen worden wurde wurden würde würden während zu zum zur zwar zwei zwischen
"""

ENGLISH = frozenset(_ENGLISH.split())
GERMAN = frozenset(_GERMAN.split())
ALL = ENGLISH | GERMAN
